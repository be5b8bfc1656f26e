"""Training on batches of several shapes: one program a shape, exact resuming, losses that padding does not change."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import bucketed, experiment, stands

from spectron.audio.features import log_mel, measure
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import ObjectiveConfig
from spectron.data import batches
from spectron.data.batches import make_feed
from spectron.data.buckets import bucket_shapes
from spectron.data.fields import to_batch
from spectron.data.vocabulary import make_vocabulary
from spectron.objectives import make_objective
from spectron.parallel.sharding import unbox
from spectron.training import loop, step
from spectron.training.metrics import RATES
from spectron.training.stage import STATISTICS_EXAMPLES, STATISTICS_ROWS, find_statistics
from spectron.types import UserError


@pytest.fixture
def config(tmp_path):
    """The tiny model on recordings of 0.25 to 0.5 s in three buckets."""
    return bucketed(experiment("stages.speech.accumulate=2"), tmp_path / "data")


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_over_buckets_goes_on_where_it_was(config, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "make_objectives", stands)
    compiled = []
    made = step.make_step

    def counting(*arguments):
        function = made(*arguments)

        def traced(state, batches):
            compiled.append(batches[0].samples.shape)
            return function(state, batches)

        return traced

    monkeypatch.setattr(step, "make_step", counting)
    assert loop.train(config, tmp_path / "whole", ["ctc"])
    assert sorted(compiled) == [(4, 6400), (4, 8000), (6, 4800)]  # each once
    assert not loop.train(config, tmp_path / "halves", ["ctc"], stop_after=5)
    assert loop.train(config, tmp_path / "halves", ["ctc"])
    whole, halves = lines(tmp_path / "whole" / "ctc"), lines(tmp_path / "halves" / "ctc")
    for a, b in zip(whole, halves, strict=True):
        assert {k: v for k, v in a.items() if k not in RATES} == {k: v for k, v in b.items() if k not in RATES}
    a, b = (Checkpoint.open(tmp_path / name / "ctc").load(prefer_ema=False) for name in ("whole", "halves"))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert all(0 < line["padding"] < 0.35 for line in whole[1:])
    plain = dataclasses.replace(config, data=dataclasses.replace(config.data, buckets=(), bucket_tokens=()))
    with pytest.raises(UserError, match=r"trained with data\.buckets"):
        loop.train(
            plain,
            tmp_path / "halves",
            ["ctc"],
        )


def test_streams_of_several_shapes_have_programs_of_their_own(config, tmp_path, monkeypatch):
    """Three buckets, two streams: six programs and one for the update, not one for each of the nine combinations."""
    monkeypatch.setattr(step, "make_objectives", stands)
    ctc = config.stage("ctc")
    streams = tuple(dataclasses.replace(ctc.streams[0], weight=1.0 + i) for i in range(2))
    several = dataclasses.replace(config, stages=(dataclasses.replace(ctc, streams=streams, steps=20, save_every=10),))
    compiled = []
    original = step.CompiledSteps._compile

    def noted(self, key, function, *arguments):
        compiled.append(key)
        original(self, key, function, *arguments)

    monkeypatch.setattr(step.CompiledSteps, "_compile", noted)
    assert loop.train(several, tmp_path / "apart", ["ctc"])
    assert len(set(compiled)) == 7
    monkeypatch.setattr(step, "_apart", lambda *arguments: None)
    assert loop.train(several, tmp_path / "whole", ["ctc"])
    apart, whole = lines(tmp_path / "apart" / "ctc"), lines(tmp_path / "whole" / "ctc")
    for a, b in zip(apart, whole, strict=True):
        numbers = [key for key, value in b.items() if isinstance(value, float) and key not in RATES]
        assert set(a) == set(b)
        assert [a[key] for key in numbers] == pytest.approx([b[key] for key in numbers], rel=1e-4)


def test_rows_that_do_not_divide_are_one_sentence(config, tmp_path):
    data = dataclasses.replace(config.data, row_multiple=1)
    with pytest.raises(UserError, match=r"row_multiple 1 must be a multiple of 2 for stage 'ctc'.*accumulate 2"):
        loop.train(dataclasses.replace(config, data=data), tmp_path, ["ctc"])


@pytest.mark.parametrize("name", ["spectron", "ctc"])
def test_the_loss_is_that_of_the_longest_bucket(config, name):
    """What a shorter bucket leaves out is padding alone; the FLOPs and positions that are said are fewer."""
    bands = config.features.num_mels
    statistics = step.Statistics(np.zeros(bands, np.float32), np.ones(bands, np.float32))
    objective = make_objective(ObjectiveConfig.members[name](), config, statistics)
    feed = make_feed(config, "heard", 4)
    room, rows = next(feed.step(s) for s in range(60) if feed.step(s)[0].samples == 4800)
    examples, longest = feed.rows.fetch_all(rows), bucket_shapes(config.data, config.features, 4)[-1]
    vocabulary = make_vocabulary(config.data.vocabulary)
    small, large = (to_batch(examples, config.data, config.features, vocabulary, shape=r) for r in (room, longest))
    assert small.samples.shape == (6, 4800)
    params = unbox(objective.init(jax.random.key(0), small))
    loss = jax.jit(lambda batch: objective.loss(params, batch, jax.random.key(1), train=False).means())
    found, expected = loss(small), loss(large)
    for term, value in expected.items():
        assert float(found[term]) == pytest.approx(float(value), rel=1e-4), term
    assert objective.batch_positions(small)[0] == objective.batch_positions(large)[0]
    assert objective.batch_positions(small)[1] < objective.batch_positions(large)[1]
    costs = [objective.flops(r).step for r in (room, longest._replace(rows=6))]
    assert costs[0] < costs[1]
    if name == "spectron":  # 4 encoder frames of prompt, tokens, 2 frames a step
        frames = [(len(e.samples) // 200 - 16 + 1) // 2 for e in examples]
        assert objective.batch_positions(small) == (sum(frames) + 6 * (4 + 3), 6 * (4 + 4 + 4))


class Counted:
    """A source that counts what is read of it."""

    def __init__(self, source):
        self.source, self.read = source, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        self.read.append(i)
        return self.source[i]


@pytest.mark.parametrize("batch_size", [8, 512])
def test_statistics_are_measured_on_a_few_rows_of_all_lengths(config, batch_size, monkeypatch):
    """However large the batches and however many the streams, one source is opened, and some rows of it are read."""
    opened = []
    original = batches.source_of
    monkeypatch.setattr(batches, "source_of", lambda *args: opened.append(Counted(original(*args))) or opened[-1])
    streams = tuple(dataclasses.replace(config.stage("ctc").streams[0], batch_size=batch_size) for _ in range(2))
    feeds = loop.open_feeds(config, dataclasses.replace(config.stage("ctc"), streams=streams))
    (source,) = opened
    found = find_statistics({}, feeds[0], config.features)
    seen = [source.source[i].samples for i in source.read]
    assert STATISTICS_EXAMPLES <= len(seen) <= STATISTICS_EXAMPLES + 3 * STATISTICS_ROWS  # read in advance
    lengths = {len(samples) for samples in seen}
    assert min(lengths) < 4800 < 6400 < max(lengths)
    rows = np.stack([np.pad(samples, (0, 8000 - len(samples))) for samples in seen[:STATISTICS_EXAMPLES]])
    counts = np.asarray([len(samples) for samples in seen[:STATISTICS_EXAMPLES]], np.int32)
    mel = jax.jit(log_mel, static_argnums=2)(rows.astype(np.float32) / 2**15, counts, config.features)
    pairs = zip(np.asarray(mel.values), mel.lengths, strict=True)
    expected = measure([row[:length] for row, length in pairs], config.features)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-3)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-3)
