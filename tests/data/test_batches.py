import itertools
import threading

import numpy as np
import pytest
from data_helpers import assert_same, first, with_data

from spectron.config import TaskConfig
from spectron.data.batches import make_feed, prefetch
from spectron.data.buckets import samples_per_row
from spectron.data.example import BadExample, Source
from spectron.data.fields import to_batch
from spectron.data.order import BLOCK, MixtureIndex, interleaving
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Example, UserError


class Numbers(Source):
    """Record i has the id i; some are bad."""

    def __init__(self, size, bad=()):
        self._size, self._bad, self.rejected = size, set(bad), {}

    def __len__(self):
        return self._size

    def __getitem__(self, i):
        if i in self._bad:
            raise BadExample(f"file-{i}.wav is bad")
        return Example(np.zeros(1, np.int16), 0, "one", str(i))


def ids(rows, numbers):
    return [rows.fetch(r).id for r in numbers]


def test_a_mixture_keeps_its_rates_and_spreads_its_tasks():
    pattern = interleaving([0.5, 0.3, 0.2])
    assert np.bincount(pattern).tolist() == [500, 300, 200]
    for start in range(0, BLOCK, 20):  # any twenty rows hold nearly their share
        assert np.abs(np.bincount(pattern[start : start + 20], minlength=3) - [10, 6, 4]).max() <= 1


def test_every_task_of_a_mixture_is_drawn():
    assert np.bincount(interleaving([1, 1e-9])).tolist() == [999, 1]
    assert np.bincount(interleaving([1, 1e-4, 1e-4])).tolist() == [998, 1, 1]
    rng = np.random.default_rng(0)
    for size in rng.integers(2, 30, 60):
        rates = 10.0 ** rng.uniform(-6, 0, size)
        counts = np.bincount(interleaving(rates), minlength=size)
        assert counts.min() >= 1
        assert np.abs(counts - np.maximum(rates / rates.sum() * BLOCK, 1)).max() <= size
    assert np.bincount(interleaving([1.0] * BLOCK)).tolist() == [1] * BLOCK
    with pytest.raises(UserError, match="1001 tasks is too large"):
        interleaving([1.0] * (BLOCK + 1))


def test_every_epoch_holds_each_record_once_in_another_order():
    rows = MixtureIndex(["a", "b"], [Numbers(7), Numbers(5)], [1, 1], seed=3)
    drawn = [rows.place(r) for r in range(140)]
    records = [rows.record(*place) for place in drawn if place[0] == 0]
    epochs = [records[i : i + 7] for i in range(0, 70, 7)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) > 5
    assert [place[1] for place in drawn if place[0] == 1] == list(range(70))


def test_a_row_needs_none_before_it():
    sources = [Numbers(50), Numbers(30)]
    walked = MixtureIndex(["a", "b"], sources, [2, 1], seed=1)
    everything = ids(walked, range(2500))
    far = MixtureIndex(["a", "b"], sources, [2, 1], seed=1)
    assert ids(far, range(2400, 2500)) == everything[2400:]
    assert ids(MixtureIndex(["a", "b"], sources, [2, 1], seed=2), range(100)) != everything[:100]


def test_a_bad_record_is_replaced_by_the_next_in_order(caplog):
    good, some_bad = MixtureIndex(["a"], [Numbers(10)], [1], 0), MixtureIndex(["a"], [Numbers(10, bad={3, 4})], [1], 0)
    order = ids(good, range(11))
    expected = []
    for at in range(10):
        while order[at] in ("3", "4"):
            at += 1
        expected.append(order[at])
    assert ids(some_bad, range(10)) == expected
    ids(some_bad, range(200))
    assert caplog.text.count("file-3.wav") == 1


def test_more_than_half_bad_is_an_error_and_half_is_not():
    ids(MixtureIndex(["a"], [Numbers(10, bad=range(5))], [1], 0), range(100))
    with pytest.raises(UserError, match=r"'a': 6 of \d+ records tried are bad, the last: file-\d.wav"):
        ids(MixtureIndex(["a"], [Numbers(10, bad=range(6))], [1], 0), range(100))
    with pytest.raises(UserError, match="'a'"):  # a large task is given up long before its half
        ids(MixtureIndex(["a"], [Numbers(10**6, bad=range(700_000))], [1], 0), range(300))
    with pytest.raises(UserError, match="no usable example"):
        MixtureIndex(["a"], [Numbers(0)], [1], 0)


def test_batches_are_a_pure_function_of_seed_and_step(experiment):
    straight = first(make_feed(experiment, "all", 6), 8)
    resumed = first(make_feed(experiment, "all", 6), 3, start=5)
    for a, b in zip(straight[5:], resumed, strict=True):
        assert_same(a, b)
    other = first(make_feed(experiment, "all", 6, seed=1), 1)[0]
    assert not np.array_equal(other.text, straight[0].text)


def test_processes_share_a_batch_without_overlap(experiment):
    whole = first(make_feed(experiment, "speech", 6), 3)
    parts = [first(make_feed(experiment, "speech", 6, process_index=p, process_count=3), 3) for p in range(3)]
    for step in range(3):
        np.testing.assert_array_equal(np.concatenate([part[step].samples for part in parts]), whole[step].samples)
        np.testing.assert_array_equal(np.concatenate([part[step].text for part in parts]), whole[step].text)
    with pytest.raises(UserError, match="does not divide by 4"):
        make_feed(experiment, "speech", 6, process_count=4)


def test_fields_of_a_batch(experiment):
    data, features = experiment.data, experiment.features
    vocabulary = make_vocabulary(data.vocabulary)
    long, short = np.arange(1, 1001, dtype=np.int16), np.arange(1, 11, dtype=np.int16)
    batch = to_batch(
        [
            Example(long, 400, "two five eight", "a", word_ends=(300, 700, 1000)),
            Example(short, 10, "zero one two", "b", scored_words=2),
        ],
        data, features, vocabulary,
    )  # fmt: skip
    size = samples_per_row(data, features)
    assert size == 64_000
    assert batch.samples.shape == (2, size)
    assert batch.samples.dtype == np.int16
    assert not batch.samples[0, 1000:].any()
    np.testing.assert_array_equal(batch.samples[1, :10], short)
    assert batch.num_samples.tolist() == [1000, 10]
    assert batch.prompt_samples.tolist() == [400, 10]
    assert batch.text.tolist() == [[6, 9, 12, 1, 0, 0, 0, 0], [4, 5, 6, 1, 0, 0, 0, 0]]
    assert batch.text_mask.sum(1).tolist() == [4, 4]
    assert batch.token_ends.tolist() == [[300, 700, 1000, 0, 0, 0, 0, 0], [0] * 8]
    assert batch.text_loss_mask.tolist() == [[True] * 4 + [False] * 4, [True] * 2 + [False] * 6]
    with pytest.raises(UserError, match=r"'c' has 10 tokens; raise data.max_tokens"):
        to_batch([Example(short, 1, "one " * 9, "c")], data, features, vocabulary)
    with pytest.raises(UserError, match=r"'d' has 64001 samples; raise data.max_seconds"):
        to_batch([Example(np.zeros(64_001, np.int16), 1, "one", "d")], data, features, vocabulary)


def test_rows_hold_whole_frames(experiment):
    assert samples_per_row(with_data(experiment, max_seconds=1.001).data, experiment.features) == 16_200


def test_random_digits_carry_no_cross_entropy_past_the_prompt(experiment):
    batch = first(make_feed(experiment, "random", 8), 1)[0]
    assert batch.text_mask.sum(1).tolist() == [7] * 8
    assert batch.text_loss_mask.sum(1).tolist() == [3] * 8


def test_text_only_batches_have_no_samples(experiment):
    batch = first(make_feed(experiment, "texts", 5), 1)[0]
    assert batch.samples.shape == (5, 0)
    mixed = first(make_feed(experiment, "all", 10), 1)[0]
    assert (mixed.num_samples == 0).sum() == 2
    assert mixed.samples.shape == (10, 64_000)


def test_two_tasks_of_one_kind_say_different_things(experiment):
    tasks = (TaskConfig("one", "random_digits", size=40), TaskConfig("two", "random_digits", size=40))
    texts = [
        {tuple(row) for batch in first(make_feed(with_data(experiment, tasks=tasks), name, 8), 5) for row in batch.text}
        for name in ("one", "two")
    ]
    assert len(texts[0] & texts[1]) < 5


def test_mistakes_are_named(experiment):
    with pytest.raises(UserError, match="no mixture or task 'speach' in data; known: speech, all, digits"):
        make_feed(experiment, "speach", 4)
    with pytest.raises(UserError, match=r"raise data\.max_tokens"):
        first(make_feed(with_data(experiment, max_tokens=5), "digits", 4), 1)


def test_prefetch_runs_ahead_hands_on_errors_and_stops():
    made = []

    def items():
        for i in range(10):
            made.append(i)
            yield i
            if i == 4:
                raise UserError("broken")

    running = prefetch(items(), 2)
    assert next(running) == 0
    rest = []
    with pytest.raises(UserError, match="broken"):
        rest.extend(running)
    assert made == [0, 1, 2, 3, 4]
    endless = prefetch((i for i in itertools.count()), 2)
    next(endless)
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "spectron-feed"]
