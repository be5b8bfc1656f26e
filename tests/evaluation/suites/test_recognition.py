"""`spectron evaluate recognition`: what is heard is kept, errors are counted on normalised texts, mistakes are said."""

import importlib.util
import json

import pytest
import student_run

from spectron.config import DataConfig, Experiment, TaskConfig
from spectron.evaluation.suites import recognition
from spectron.evaluation.suites.utterances import task_of
from spectron.recognition import ngram
from spectron.recognition.ctc_search import Fusion
from spectron.types import Hypothesis, UserError

pytest.importorskip("jiwer")
needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


def test_tasks_by_name_or_by_kind_and_place():
    experiment = Experiment("x", DataConfig(tasks=(TaskConfig("dev", "manifest"),)), ())
    assert task_of("dev", experiment).source == "manifest"
    assert task_of("shards:some/where", experiment).root == "some/where"
    for wrong in ("devv", "text:x"):
        with pytest.raises(UserError, match="--task"):
            task_of(wrong, experiment)


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

    def run(ears, out="out", task=f"manifest:{tmp_path / 'corpus'}", **settings):
        monkeypatch.setattr(recognition, "load_recogniser", lambda path, fusion: ears)
        return recognition.evaluate_recognition("ears", task, tmp_path / out, **settings)

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

    from spectron.evaluation.judges.base import facts_of

    told = []
    for texts in (["A B"] * 3, ["B A"] * 3):
        (tmp_path / "lm.arpa").write_bytes(ngram.estimate(texts, 2).arpa())
        recogniser = fresh(fusion=Fusion(str(tmp_path / "lm.arpa"), 1.0))
        told.append(facts_of(recogniser)["checksum"])
    assert told[0] != told[1]
