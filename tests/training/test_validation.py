"""Training tells, every so many steps, how it does on a validation task; the figures are those computed by hand."""

import dataclasses
import json

import jax
import jiwer
import pytest
from tiny_run import bucketed, experiment

pytest.importorskip("seqio", reason="the extra 'data' is not installed")

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import ObjectiveConfig, StreamConfig, TaskConfig, TextLMConfig
from spectron.data.sources import source_of
from spectron.objectives import make_objective
from spectron.objectives.base import OBJECTIVES
from spectron.objectives.ctc import CTC
from spectron.parallel import sharding
from spectron.recognition.ctc_search import greedy
from spectron.recognition.recogniser import CTCRecogniser
from spectron.training import loop, validation
from spectron.types import UserError


@dataclasses.dataclass(frozen=True)
class SilentConfig(ObjectiveConfig, kind="silent"):
    """An objective without a validation figure."""


@OBJECTIVES.register(SilentConfig)
class Silent(CTC):
    validates = ""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A ctc stage and one of text; 10 of the recordings are asked about, in batches of 4."""
    folder = tmp_path_factory.mktemp("held out")
    config = bucketed(experiment(), folder)
    (folder / "words.txt").write_text("one two\nthree\nzero zero one\n")
    tasks = (TaskConfig("heard", "manifest"), TaskConfig("words", "text", root=str(folder / "words.txt")))
    data = dataclasses.replace(config.data, tasks=tasks, buckets=(), bucket_tokens=())
    ctc = dataclasses.replace(
        config.stage("ctc"), steps=5, save_every=2, evaluate_on="heard", evaluate_every=2, evaluate_examples=10
    )
    text = dataclasses.replace(experiment().stage("text"), steps=2, evaluate_on="words", evaluate_every=2, save_every=9)
    text = dataclasses.replace(text, streams=(dataclasses.replace(text.streams[0], mixture="words", batch_size=2),))
    return dataclasses.replace(config, data=data, stages=(ctc, text))


def told(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows if any(name.startswith("validation") for name in row)}


def test_word_errors_while_training(config, tmp_path):
    silent = dataclasses.replace(config, stages=(dataclasses.replace(config.stage("ctc"), evaluate_on=""),))
    assert not loop.train(silent, tmp_path, stop_after=1)
    assert not loop.train(config, tmp_path, ["ctc"], stop_after=3)
    assert sorted(told(tmp_path / "ctc")) == [2]
    assert loop.train(config, tmp_path, ["ctc"])
    found = told(tmp_path / "ctc")
    assert sorted(found) == [2, 4, 5]
    recogniser = CTCRecogniser.from_checkpoint(tmp_path / "ctc")
    source = source_of(config, "heard")
    examples = [source[i] for i in range(10)]
    heard = [greedy(x, recogniser.vocabulary).text for x in recogniser.emissions([e.samples for e in examples])]
    wanted = jiwer.wer([e.text for e in examples], heard)
    assert found[5]["validation_wer"] == pytest.approx(wanted)
    assert wanted > 0


def test_log_perplexity_of_texts(config, tmp_path):
    assert loop.train(config, tmp_path, ["text"])
    found = told(tmp_path / "text")[2]["validation_log_perplexity"]
    params = Checkpoint.open(tmp_path / "text").load()
    objective = make_objective(TextLMConfig(prefix_tokens=0), config, None)
    feed = loop.make_feed(
        dataclasses.replace(config, data=dataclasses.replace(config.data, reader="direct")), "words", 3
    )
    running = feed.batches()
    batch = next(running)  # one epoch: each of the three texts
    running.close()
    loss = jax.jit(lambda p, b: objective.loss(p, b, jax.random.key(0), False).means()["text_lm"])(params, batch)
    assert found == pytest.approx(float(loss), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate_on": "haerd"}, "'haerd' is no task; known: heard, words"),
        ({"streams": (StreamConfig(SilentConfig(), "heard"),)}, "'silent' has no validation metric; leave it empty"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(config, changes, message):
    stage, mesh = dataclasses.replace(config.stage("ctc"), **changes), sharding.make_mesh((), jax.devices()[:1])
    with pytest.raises(UserError, match=message):
        validation.make_validation(config, stage, None, mesh)
