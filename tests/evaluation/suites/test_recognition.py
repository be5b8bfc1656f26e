"""Word error rates by hand, weights tuned on held-out speech, the labels' own quality, and the files of a report."""

import importlib.util
import json

import numpy as np
import pytest
import student_run

from spectron.config import CharactersConfig, DataConfig, Experiment, TaskConfig
from spectron.config.noisy_student import BeamConfig
from spectron.corpora.labels import Label
from spectron.corpora.selection import ScoreFilter
from spectron.data.vocabulary import make_vocabulary
from spectron.evaluation.scores.word_errors import errors, word_error_rate
from spectron.evaluation.suites import recognition
from spectron.evaluation.suites.recognition import Heard, label_quality, report, task_of, tune
from spectron.recognition import ngram
from spectron.recognition.ctc_search import Fusion
from spectron.types import Hypothesis, UserError

pytest.importorskip("jiwer")
CHARACTERS = make_vocabulary(CharactersConfig((" ", "A", "B")))
needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


@pytest.mark.parametrize(
    ("said", "written", "wanted"),
    [
        ("A B C", "A B C", (0, 3)),
        ("A B C", "A X C", (1, 3)),
        ("A B C", "A C", (1, 3)),
        ("A B C", "A B B C", (1, 3)),
        ("A B C", "", (3, 3)),
        ("", "", (0, 0)),
        ("", "A B", (2, 0)),
    ],
)
def test_errors_of_one_utterance(said, written, wanted):
    assert errors(said, written) == wanted


def test_the_rate_is_over_words_with_an_interval_over_utterances():
    figure = word_error_rate("x", ["A B C D"] * 50 + ["A"] * 50, ["A B C D"] * 50 + ["B"] * 50)
    assert (figure.value, figure.n, figure.unit) == (0.2, 100, "%")
    assert 0.1 < figure.low < 0.2 < figure.high < 0.3


def heard():
    """Two recordings that sound a little more like AB than like BA; BA was said."""
    log_probs = np.full((3, CHARACTERS.size), -9.0, np.float32)
    log_probs[0, [5, 6]] = -0.7, -0.8
    log_probs[1, 0] = -0.01
    log_probs[2, [5, 6]] = -0.76, -0.75
    return Heard(["a", "b"], ["BA", "BA"], [1.0, 2.0], [log_probs] * 2, CHARACTERS, "nowhere")


@needs_flashlight
def test_tuning_takes_the_weight_of_the_fewest_errors_and_the_report_says_all(tmp_path):
    (tmp_path / "lm.arpa").write_bytes(ngram.estimate(["BA"] * 100 + ["AB"], 2).arpa())
    config = BeamConfig(lm_weights=(0.0, 1.0, 2.0), word_bonuses=(0.0, -1.0))
    fusion = tune(heard(), config, tmp_path / "lm.arpa")
    assert (fusion.lm_weight, fusion.word_bonus) == (1.0, 0.0)
    report(heard(), fusion, tmp_path / "out", "two", tuned_on=5)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["figures"]["greedy"]["value"] == 1.0
    assert results["figures"]["fused"]["value"] == 0.0
    assert results["utterances"] == 2
    assert results["fusion"]["lm_weight"] == 1.0
    first = json.loads((tmp_path / "out" / "items.jsonl").read_text().splitlines()[0])
    assert (first["id"], first["greedy"]["text"], first["fused"]["text"]) == ("a", "AB", "BA")
    assert first["greedy"]["errors"] == 1
    said = (tmp_path / "out" / "results.md").read_text()
    assert "| fused | 0.0 % |" in said
    assert "chosen on 2 of these" in said


def test_without_a_language_model_the_report_is_greedy(tmp_path):
    assert set(report(heard(), Fusion(), tmp_path, "x")["figures"]) == {"greedy"}


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


def test_tasks_by_name_or_by_kind_and_place():
    experiment = Experiment("x", DataConfig(tasks=(TaskConfig("dev", "manifest"),)), ())
    assert task_of("dev", experiment).source == "manifest"
    assert task_of("shards:some/where", experiment).root == "some/where"
    for wrong in ("devv", "text:x"):
        with pytest.raises(UserError, match="--task"):
            task_of(wrong, experiment)


def test_no_reader_is_asked_for_a_length(tmp_path):
    wide = recognition.unlimited(DataConfig(max_seconds=1.0))
    assert wide.max_seconds == float("inf")
    assert wide.prompt_seconds == 0


# The command.


class Ears:
    """Hears what it is told, recording by recording, with capitals and a full stop; dies after so many calls."""

    name = "ears"

    def __init__(self, texts, calls=99):
        self.texts, self.calls, self.heard = list(texts), calls, 0

    def transcribe(self, recordings):
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        found = [f"{text.capitalize()}." for text in self.texts[self.heard : self.heard + len(recordings)]]
        self.heard += len(recordings)
        return [Hypothesis(text, -1.0, 1) for text in found]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The place of six utterances, and a way to evaluate a recogniser there."""
    student_run.write_corpus(tmp_path, "corpus", ["1"], 6)
    said = [json.loads(line)["text"] for line in (tmp_path / "corpus" / "manifest.jsonl").read_text().splitlines()]
    monkeypatch.setattr(recognition, "CHUNK", 2)
    monkeypatch.setattr(recognition, "pin", str)

    def run(ears, out="out", task=f"manifest:{tmp_path / 'corpus'}", **settings):
        monkeypatch.setattr(recognition, "load_recogniser", lambda path, fusion: ears)
        return recognition.evaluate("ears", task, tmp_path / out, **settings)

    return said, run


def test_a_killed_run_goes_on_and_gives_the_same_bytes(corpus, tmp_path):
    said, run = corpus
    run(Ears(said), "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Ears(said, calls=2), "cut")
    later = Ears(said[4:], calls=1)
    run(later, "cut")
    assert later.heard == 2, "what was heard before is not heard again"
    for name in ("results.json", "results.md", "items.jsonl", "report.html"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    stored = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert {"role", "name", "version", "settings", "checksum"} <= set(stored["judges"][0])
    assert stored["data"][0]["items"] == 6 and stored["data"][0]["checksum"]
    assert (tmp_path / "whole" / "report.html").read_text().count("<audio") == 6
    with pytest.raises(UserError, match="another limit"):
        run(Ears(said), "cut", limit=3)
    student_run.write_corpus(tmp_path, "second", ["2"], 2)
    with pytest.raises(UserError, match="another task"):
        run(Ears(said), "cut", task=f"manifest:{tmp_path / 'second'}")
    assert json.loads((tmp_path / "cut" / "results.json").read_text()) == stored


def test_capitals_and_punctuation_are_no_errors(corpus):
    said, run = corpus
    figure = run(Ears(said)).tables[0].rows["own"]["WER"]
    assert (figure.value, figure.n) == (0.0, 6)


def test_what_cannot_be_evaluated_is_refused_before_anything_is_heard(corpus, tmp_path):
    said, run = corpus
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.jsonl").touch()
    ears = Ears(said)
    with pytest.raises(UserError, match="--limit -1"):
        run(ears, limit=-1)
    with pytest.raises(UserError, match="--out"):
        run(ears, "file/x")
    with pytest.raises(UserError):
        run(ears, task=f"manifest:{tmp_path / 'empty'}")
    assert not ears.heard and not (tmp_path / "out").exists()


@needs_flashlight
def test_the_language_model_is_known_by_its_content(tmp_path):
    from recognition.test_recogniser import fresh

    from spectron.evaluation.judges.outside import facts_of

    told = []
    for texts in (["A B"] * 3, ["B A"] * 3):
        (tmp_path / "lm.arpa").write_bytes(ngram.estimate(texts, 2).arpa())
        recogniser = fresh(fusion=Fusion(str(tmp_path / "lm.arpa"), 1.0))
        told.append(facts_of(recogniser)["checksum"])
    assert told[0] != told[1]
