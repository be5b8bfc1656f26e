"""Weights tuned on held-out speech, the report on it, and the labels' own quality."""

import importlib.util
import json
from typing import NamedTuple

import numpy as np
import pytest

from spectron.config import CharactersConfig, DataConfig, Experiment
from spectron.config.noisy_student import BeamConfig
from spectron.corpora.labels import Label
from spectron.corpora.selection import ScoreFilter
from spectron.data.vocabulary import make_vocabulary
from spectron.noisy_student.measuring import HeldOutSpeech, label_quality, report, tune
from spectron.recognition import ngram
from spectron.recognition.ctc_search import Fusion, WordSearch
from spectron.recognition.recogniser import CTCRecogniser

CHARACTERS = make_vocabulary(CharactersConfig((" ", "A", "B")))
needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


class Spoken(NamedTuple):
    """An utterance of silence."""

    id: str
    text: str
    seconds: float

    def samples(self):
        return np.zeros(round(16_000 * self.seconds), np.int16)


class Ears:
    """Stands for a CTC recogniser that was run before."""

    name, vocabulary, experiment = "ctc nowhere", CHARACTERS, Experiment("x", DataConfig(), ())

    def __init__(self, fusion):
        self.fusion = fusion
        self.search = WordSearch(fusion, CHARACTERS) if fusion.lm else None

    def with_fusion(self, fusion):
        return Ears(fusion)

    decode = CTCRecogniser.decode


def heard():
    """Two recordings that sound a little more like AB than like BA; BA was said."""
    log_probs = np.full((3, CHARACTERS.size), -9.0, np.float32)
    log_probs[0, [5, 6]] = -0.7, -0.8
    log_probs[1, 0] = -0.01
    log_probs[2, [5, 6]] = -0.76, -0.75
    utterances = [Spoken("a", "BA", 1.0), Spoken("b", "BA", 2.0)]
    return HeldOutSpeech(Ears(Fusion()), utterances, [log_probs] * 2)


@needs_flashlight
def test_tuning_takes_the_weight_of_the_fewest_errors_and_the_report_says_all(tmp_path):
    (tmp_path / "lm.arpa").write_bytes(ngram.estimate(["BA"] * 100 + ["AB"], 2).arpa())
    config = BeamConfig(lm_weights=(0.0, 1.0, 2.0), word_bonuses=(0.0, -1.0))
    fusion = tune(heard(), config, tmp_path / "lm.arpa")
    assert (fusion.lm_weight, fusion.word_bonus) == (1.0, 0.0)
    report(heard(), fusion, tmp_path / "out", "two", tuned_on=5)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = results["tables"][0]["rows"]
    assert (rows["greedy"]["WER"]["value"], rows["fused"]["WER"]["value"]) == (1.0, 0.0)
    assert results["data"][0]["items"] == 2
    assert results["facts"]["fusion"]["lm_weight"] == 1.0
    first = json.loads((tmp_path / "out" / "items.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["greedy"]["text"], first["fused"]["text"]) == ("a", "AB", "BA")
    assert first["greedy"]["errors"] == 1
    said = (tmp_path / "out" / "results.md").read_text()
    assert "| fused | 0.0 % " in said
    assert "chosen on 2 of these" in said


def test_without_a_language_model_the_report_is_greedy(tmp_path):
    assert set(report(heard(), Fusion(), tmp_path, "x").tables[0].rows) == {"greedy"}


def test_labels_are_scored_kept_and_rejected():
    labels = [
        Label("a", "A B", -1.0, 2, 3600.0),
        Label("b", "A X", -50.0, 2, 1800.0),
        Label("c", "", 0.0, 0, 1800.0),
        Label("unknown", "A", -1.0, 1, 3600.0),
    ]
    quality = label_quality(labels, ScoreFilter(0, 0, 1, -2.0), {"a": "A B", "b": "A B", "c": "C D"})
    assert quality["kept"]["value"] == 0.0
    assert quality["rejected"]["value"] == 0.75
    assert quality["all"]["value"] == 0.5
    assert (quality["hours"], quality["hours_kept"]) == (3.0, 2.0)
    assert quality["reasons"] == {"kept": 2, "score below the threshold": 1, "without text": 1}
