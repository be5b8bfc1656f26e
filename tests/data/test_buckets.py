"""Buckets of like lengths: where a record goes, what an epoch holds, resuming, stand-ins, all readers alike."""

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from data_helpers import assert_same, first, with_data

from spectron.audio import wav
from spectron.config import (
    DataConfig,
    Experiment,
    FeatureConfig,
    MixtureConfig,
    TaskConfig,
    check_settings,
    load_experiment,
)
from spectron.data import packing
from spectron.data.batches import make_feed
from spectron.data.buckets import BucketIndex, bucket_ids, bucket_shapes, continuation_capacity
from spectron.data.example import BadExample, Source
from spectron.data.order import BatchShape
from spectron.data.sources import source_of
from spectron.types import Example, UserError

FEATURES = FeatureConfig()
RATE = FEATURES.sample_rate


class Lengths(Source):
    """Records of given samples; the id says which. Some are bad, some longer than they say."""

    def __init__(self, lengths, bad=(), longer=()):
        self.lengths, self._bad, self._longer, self.rejected = np.asarray(lengths), set(bad), set(longer), {}
        self._count = len(self.lengths)

    def __len__(self):
        return self._count

    def __getitem__(self, i):
        if i in self._bad:
            raise BadExample(f"file-{i}.flac is bad")
        size = int(self.lengths[i]) * (4 if i in self._longer else 1)
        return Example(np.ones(size, np.int16), 0, "one", str(i))


ROOMS = (BatchShape(8, 100, 9), BatchShape(4, 200, 9), BatchShape(2, 400, 9))


def order(sources, rates=None, seed=0, shapes=ROOMS):
    buckets_of_records = [
        np.searchsorted([shape.samples for shape in shapes[:-1]], source.lengths) for source in sources
    ]
    names = [f"task{i}" for i in range(len(sources))]
    return BucketIndex(names, sources, rates or [1.0] * len(sources), seed, shapes, buckets_of_records)


def drawn(rows, steps):
    """(task, record) of every row of some steps."""
    numbers = (row for step in steps for row in rows.step(step)[1])
    return [next(rows.candidates(row)) for row in numbers]


def some_lengths(size, seed=0):
    return np.random.default_rng(seed).integers(10, 400, size)


def test_rows_follow_seconds_in_whole_multiples():
    data = DataConfig(max_seconds=16.0, buckets=(4.0, 10.0, 13.0), max_tokens=100, row_multiple=4)
    shapes = bucket_shapes(data, FEATURES, 32)
    assert shapes == [
        BatchShape(128, 64_000, 100),
        BatchShape(48, 160_000, 100),
        BatchShape(36, 208_000, 100),
        BatchShape(32, 256_000, 100),
    ]
    assert max(shape.rows * shape.samples for shape in shapes) <= 32 * 256_000
    assert bucket_shapes(data, FEATURES, 6)[1].rows == 8  # 9.6 rows, in multiples of what 6 and 4 share
    assert bucket_shapes(DataConfig(), FEATURES, 7) == [BatchShape(7, 256_000, 256)]


@pytest.mark.parametrize(
    ("buckets", "tokens"), [((5, 5), ()), ((5, 20), ()), ((4, 8), (9, 8)), ((4,), (300,))]
)  # fmt: skip
def test_buckets_that_do_not_rise_are_one_sentence(buckets, tokens):
    with pytest.raises(UserError, match=r"must rise from above 0 to at most max_seconds \(16\)"):
        check_settings(DataConfig(buckets=buckets, bucket_tokens=tokens), "data")


def test_a_record_goes_where_samples_continuation_and_text_have_room():
    data = DataConfig(max_seconds=10.0, prompt_seconds=3.0, buckets=(5.0, 7.0), bucket_tokens=(10, 20), max_tokens=30)
    shapes = bucket_shapes(data, FEATURES, 8)
    source = Lengths(np.array([4.9, 4.995, 6.0, 9.0, 4.9, 4.9, 4.9, 0.0]) * RATE)
    source.prompts = np.array([3.0, 3.0, 3.0, 3.0, 1.0, 3.0, 3.0, 0.0]) * RATE
    source.tokens = np.array([10, 10, 10, 10, 10, 11, 21, 5])
    # The second is nearer to the limit than a manifest's rounding; the fifth continues for 3.9 s, not 2.
    assert bucket_ids(source, "t", data, FEATURES, shapes).tolist() == [0, 1, 1, 2, 1, 1, 2, 0]
    assert continuation_capacity(shapes[0].samples, data, FEATURES) == 160
    assert (
        continuation_capacity(shapes[2].samples, data, FEATURES) == 980
    )  # max_continuation_seconds, as without buckets
    del source.tokens
    with pytest.raises(UserError, match="bucket_tokens: task 't' does not know its tokens"):
        bucket_ids(source, "t", data, FEATURES, shapes)
    source.lengths = None  # known after reading alone
    assert bucket_ids(source, "t", data, FEATURES, shapes).tolist() == [2] * 8


def test_every_batch_holds_one_bucket_and_every_epoch_each_record_once():
    source = Lengths(some_lengths(480))
    rows = order([source])
    counts = rows.counts[0]
    assert (counts > 20).all()
    seen = Counter()
    orders = []
    for step in range(sum(rows.full(3))):
        shape, numbers = rows.step(step)
        assert len(numbers) == shape.rows
        records = [next(rows.candidates(row))[1] for row in numbers]
        sizes = source.lengths[records]
        assert sizes.max() <= shape.samples
        assert sizes.min() > shape.samples // 2 or shape.samples == 100
        seen.update(records)
        orders.append(shape.samples)
    # What a bucket has left over at an epoch's end opens its next batch: nobody is more than one epoch ahead.
    assert set(seen.values()) <= {2, 3}
    assert sum(seen.values()) >= 3 * 480 - sum(shape.rows for shape in rows.shapes)
    per_epoch = len(orders) // 3
    assert orders[:per_epoch] != orders[per_epoch : 2 * per_epoch]  # batches of all lengths, shuffled anew
    assert len(set(orders[:10])) == 3


def test_an_epoch_that_divides_is_exact():
    lengths = np.repeat([50, 150, 300], [80, 40, 20])  # ten batches of each bucket
    rows = order([Lengths(lengths)])
    for epoch in range(4):
        records = [number for _, number in drawn(rows, range(30 * epoch, 30 * (epoch + 1)))]
        assert sorted(records) == list(range(140))


@pytest.mark.parametrize("sizes", [[30, 70, 1], [5, 3]])
def test_no_bucket_of_a_task_runs_ahead(sizes):
    """Also when a batch holds more rows than a task has records; over many epochs all are drawn equally often."""
    sources = [Lengths(some_lengths(size, seed=size)) for size in sizes]
    rows = order(sources, rates=[size / sum(sizes) for size in sizes])
    seen = Counter(drawn(rows, range(3000)))
    total = sum(seen.values())
    for task, size in enumerate(sizes):
        for number in range(size):
            assert seen[task, number] == pytest.approx(total / sum(sizes), rel=0.05, abs=3)


def test_rates_count_records():
    rows = order([Lengths(some_lengths(500)), Lengths(some_lengths(40) // 4 + 1)], rates=[0.8, 0.2])
    tasks = Counter(task for task, _ in drawn(rows, range(4000)))
    assert tasks[1] / sum(tasks.values()) == pytest.approx(0.2, abs=0.005)
    short = [task for shape, numbers in map(rows.step, range(200)) if shape.samples == 100
             for task in [rows.place(row)[0] for row in numbers]]  # fmt: skip
    assert set(short[:8]) == {0, 1}  # mixed within a batch


def test_a_bucket_too_small_for_a_batch_joins_the_next():
    rows = order([Lengths([50] * 7 + [150] * 20 + [300] * 9)])
    assert [shape.samples for shape in rows.shapes] == [200, 400]
    assert rows.counts.tolist() == [[27, 9]]
    assert [shape.samples for shape in order([Lengths([50] * 70)]).shapes] == [100]


def test_a_step_needs_none_before_it_and_comes_from_the_seed():
    sources = [Lengths(some_lengths(90)), Lengths(some_lengths(35, 1))]
    walked = order(sources, [2, 1])
    everything = [walked.step(step) for step in range(500)]
    far = order(sources, [2, 1])
    assert [far.step(step) for step in range(450, 500)] == everything[450:]
    assert drawn(far, range(450, 500)) == drawn(walked, range(450, 500))
    assert drawn(order(sources, [2, 1], seed=1), range(20)) != drawn(walked, range(20))
    for step in (10**3, 10**6, 10**9, 10**12):
        shape, numbers = far.step(step)
        assert shape.rows == len(numbers)
        assert sum(far.full(far._period_of(step))) <= step < sum(far.full(far._period_of(step) + 1))


def test_resuming_after_ten_million_records_draws_what_ten_draw(monkeypatch):
    """One epoch of 15 million utterances, 60,000 hours: a step needs the permutations of its own epoch alone."""
    lengths = np.random.default_rng(0).integers(1, 400, 1_500_000)
    shapes = (BatchShape(256, 100, 9), BatchShape(128, 200, 9), BatchShape(64, 400, 9))
    generators = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: generators.append(seed) or make(seed))

    def resume(step):
        generators.clear()
        found = drawn(order([Lengths(lengths)], shapes=shapes), range(step, step + 1))
        return len(generators), found

    early, late = resume(1), resume(10_000_000 // 128)
    assert early[0] == late[0] <= 4
    assert resume(10_000_000 // 128) == late


def test_for_a_bad_record_stands_in_the_next_of_its_bucket(caplog):
    lengths = np.repeat([50, 150, 300], [80, 40, 20])
    bad = {3, 90, 91, 130}
    good, some_bad = order([Lengths(lengths)]), order([Lengths(lengths, bad)])
    for step in range(90):
        shape, numbers = good.step(step)
        for row in numbers:
            expected = next(n for _, n in good.candidates(row) if n not in bad)
            example = some_bad.fetch(row)
            assert example.id == str(expected)
            assert shape.samples // 2 < len(example.samples) <= shape.samples or shape.samples == 100
    assert all(caplog.text.count(f"file-{n}.flac") == 1 for n in bad)


def test_a_bucket_without_a_good_record_takes_shorter_ones_and_then_gives_up():
    lengths = np.repeat([50, 150, 300], [40, 20, 10])
    rows = order([Lengths(lengths, bad=range(60, 70))])
    assert {len(rows.fetch(row).samples) for step in range(40) for row in rows.step(step)[1]} == {50, 150}
    rows = order([Lengths(lengths, bad=range(40))])
    numbers = [row for step in range(60) for row in rows.step(step)[1]]
    with pytest.raises(UserError, match="'task0'"):
        rows.fetch_all(numbers)


def test_a_record_longer_than_its_source_said_is_bad_not_a_crash(caplog):
    rows = order([Lengths([50] * 80, longer=[5])])
    assert "5" not in {rows.fetch(row).id for step in range(20) for row in rows.step(step)[1]}
    assert "'5' has 200 samples, more than its stated length" in caplog.text


def tone(seconds, pitch):
    return (3000 * np.sin(np.arange(round(seconds * RATE)) * pitch)).astype(np.int16)


@pytest.fixture
def spoken(tmp_path):
    """A manifest of eighty short recordings, two of them broken, and a text; buckets of 1 and 2 s."""
    rng, lines = np.random.default_rng(0), []
    for i, seconds in enumerate(rng.uniform(0.4, 2.7, 80).round(2)):
        wav.write(tmp_path / f"{i}.flac", tone(seconds, 0.02 + 0.01 * i), RATE)
        if i in (7, 30):
            (tmp_path / f"{i}.flac").write_bytes((tmp_path / f"{i}.flac").read_bytes()[:60])
        lines.append(json.dumps({"id": f"r{i}", "audio": f"{i}.flac", "text": "a" * (i % 9 + 1), "duration": seconds}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    (tmp_path / "t.txt").write_text("".join(f"{'b' * (i % 5 + 1)}\n" for i in range(30)))
    data = DataConfig(
        root=str(tmp_path), reader="direct", buckets=(1.0, 2.0), bucket_tokens=(9, 10), row_multiple=2,
        tasks=(TaskConfig("speech", "manifest"), TaskConfig("text", "text", root=str(tmp_path / "t.txt"))),
        mixtures=(MixtureConfig("both", (("speech", 0.7), ("text", 0.3))),),
        prompt_seconds=0.25, min_continuation_seconds=0.1, max_seconds=3.0, max_continuation_seconds=2.5, max_tokens=11,
    )  # fmt: skip
    return Experiment("spoken", data, ())


@pytest.mark.parametrize("mixture", ["speech", "both", "text"])
def test_all_readers_make_the_same_batches(spoken, mixture, tmp_path):
    pytest.importorskip("seqio", reason="the extra 'data' is not installed")
    direct = first(make_feed(spoken, mixture, 4), 14, start=2)
    for a, b in zip(first(make_feed(with_data(spoken, reader="seqio"), mixture, 4), 14, start=2), direct, strict=True):
        assert_same(a, b)
    shapes = {(batch.samples.shape, batch.text.shape) for batch in direct}
    speech = {((12, 16_000), (12, 9)), ((6, 32_000), (6, 10)), ((4, 48_000), (4, 11))}
    assert shapes == ({((4, 0), (4, 11))} if mixture == "text" else speech)


@pytest.mark.parametrize("reader", ["direct", "seqio"])
def test_rows_of_all_lengths_in_order_depend_on_no_batch_size(spoken, reader):
    pytest.importorskip("seqio", reason="the extra 'data' is not installed")
    ours = with_data(spoken, reader=reader)
    whole, part = (make_feed(spoken, "both", 4).in_order(20), make_feed(ours, "both", 16, 1, 2).in_order(5))
    expected = next(whole)
    for i, batch in enumerate(itertools.islice(part, 4)):
        assert_same(batch, jax.tree.map(lambda x, i=i: x[5 * i : 5 * i + 5], expected))
    assert expected.samples.shape == (20, 48_000)
    whole.close()
    part.close()


def test_packed_batches_are_those_of_the_recordings(spoken, tmp_path):
    """Of good recordings: a pack has no bad ones, so it has another epoch than recordings with bad ones among them."""
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(line for i, line in enumerate(lines) if i not in (7, 30)))
    for task in ("speech", "text"):
        packing.pack(spoken, task, tmp_path / "packs")
    ours = with_data(spoken, packed=str(tmp_path / "packs"))
    for a, b in zip(first(make_feed(ours, "both", 4), 14), first(make_feed(spoken, "both", 4), 14), strict=True):
        assert_same(a, b)


def test_a_task_that_does_not_know_its_lengths_is_in_the_longest_bucket(experiment, tmp_path):
    ours = with_data(experiment, buckets=(2.0, 3.0))
    batches = first(make_feed(ours, "digits", 6), 3)
    assert {batch.samples.shape for batch in batches} == {(6, 64_000)}
    packing.pack(ours, "digits", tmp_path)
    for a, b in zip(first(make_feed(with_data(ours, packed=str(tmp_path)), "digits", 6), 3), batches, strict=True):
        assert_same(a, b)


def test_text_alone_is_in_the_shortest_bucket(experiment):
    shapes = bucket_shapes(with_data(experiment, buckets=(2.0, 3.0)).data, FEATURES, 6)
    source = source_of(experiment, "texts")
    assert not bucket_ids(source, "texts", experiment.data, FEATURES, shapes).any()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_every_batch(spoken, count):
    six = with_data(spoken, row_multiple=6)
    whole = first(make_feed(six, "speech", 6), 8)
    parts = [first(make_feed(six, "speech", 6, process_index=p, process_count=count), 8) for p in range(count)]
    for step, batch in enumerate(whole):
        for name in ("samples", "num_samples", "text", "text_mask"):
            joined = np.concatenate([getattr(part[step], name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(batch, name))
    with pytest.raises(UserError, match=r"row_multiple 2 gives a bucket .* do not divide by 3 processes"):
        make_feed(spoken, "speech", 6, process_count=3)


def test_bad_recordings_are_replaced_counted_and_named(spoken, caplog):
    feed = make_feed(spoken, "speech", 4)
    batches = first(feed, 40)
    assert len(feed.rows.bad[0]) == 2
    assert caplog.text.count("7.flac") == 1
    assert all(batch.num_samples.min() > 0 for batch in batches)


@pytest.mark.parametrize(("corpus", "batch"), [("librispeech_train5", 32), ("librispeech_spk251", 8)])
def test_padding_on_librispeechs_lengths_is_below_a_tenth(data_dir, corpus, batch):
    """With the buckets of configs/librilight.py; small batches, that a small corpus fills them as a large one does."""
    with (data_dir / corpus / "manifest.jsonl").open() as lines:
        seconds = np.array([json.loads(line)["duration"] for line in lines])
    recipe = load_experiment(Path(__file__).parents[2] / "configs" / "librilight.py").data
    data = dataclasses.replace(recipe, bucket_tokens=(), row_multiple=4)
    fitting = seconds[(seconds > data.prompt_seconds + data.min_continuation_seconds) & (seconds < data.max_seconds)]
    source = Lengths((fitting * RATE).astype(int))
    shapes = bucket_shapes(data, FEATURES, batch)
    rows = BucketIndex(["s"], [source], [1.0], 0, shapes, [bucket_ids(source, "s", data, FEATURES, shapes)])
    real = computed = 0
    for step in range(sum(rows.full(2))):
        shape, numbers = rows.step(step)
        computed += shape.rows * shape.samples
        real += sum(int(source.lengths[next(rows.candidates(row))[1]]) for row in numbers)
    assert 1 - real / computed < 0.07
    assert 1 - fitting.mean() / data.max_seconds > 0.17  # without


def test_three_processes_and_uneven_shards_lose_and_double_nothing():
    """Records of shards of 7, 1 and 4: rows go by record, so what a shard holds is no matter."""
    lengths = np.concatenate([np.full(size, 50) for size in (7, 1, 4)])
    rows = order([Lengths(lengths)], shapes=(BatchShape(6, 100, 9),))
    for epoch in range(3):
        shares = []
        for process in range(3):
            steps = [rows.step(step)[1] for step in range(2 * epoch, 2 * epoch + 2)]
            mine = [row for numbers in steps for row in numbers[2 * process : 2 * process + 2]]
            shares.append([rows.fetch(row).id for row in mine])
        assert [len(share) for share in shares] == [4, 4, 4]
        assert sorted(itertools.chain(*shares), key=int) == [str(i) for i in range(12)]
