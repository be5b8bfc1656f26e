"""Bucketing by length: the bucket of each record, and the bucket and rows of each step.

Every bucket is an endless sequence of rows: its records in a new permutation each epoch, cut into batches of the
bucket's size. A batch may span two epochs, so nothing is dropped, padded with repeats or drawn twice. The batches of an
epoch (those that become full in it) are shuffled. The order depends on counts alone: step n is found in O(1), without
reading a record.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from spectron.config import DataConfig, FeatureConfig
from spectron.data.example import BadExample, Source
from spectron.data.order import BatchShape, Permutations, Records
from spectron.types import Example, UserError

PERIOD = 1 << 17  # ours: rows after which a mixture of several tasks repeats; its rates are exact to 1 / PERIOD
AT_ONCE = 1 << 20  # ours: records that get their buckets together, for the memory of millions
SLACK_SECONDS = 0.01  # ours: manifests round durations; a record must fit its bucket with this margin


def whole_frames(seconds: float, features: FeatureConfig) -> int:
    """Samples of a time, up to a whole frame."""
    return -(-round(seconds * features.sample_rate) // features.hop) * features.hop


def samples_per_row(data: DataConfig, features: FeatureConfig) -> int:
    """Samples S of the longest batch: max_seconds, up to a whole frame."""
    return whole_frames(data.max_seconds, features)


def longest_shape(data: DataConfig, features: FeatureConfig, rows: int) -> BatchShape:
    """The shape of batches without buckets, which is that of the longest bucket."""
    return BatchShape(rows, samples_per_row(data, features), data.max_tokens)


def bucket_shapes(data: DataConfig, features: FeatureConfig, batch_size: int) -> list[BatchShape]:
    """The shape of each bucket's batches, shortest first; the last is that of a feed without buckets.

    Rows: as many as hold about the seconds of batch_size rows of the longest, a multiple of row_multiple (of its
    greatest common divisor with batch_size, so a common divisor also divides every bucket).
    """
    seconds, tokens = list(data.buckets), list(data.bucket_tokens or [data.max_tokens] * len(data.buckets))
    if not seconds or seconds[-1] < data.max_seconds:
        seconds.append(data.max_seconds)
        tokens.append(data.max_tokens)
    tokens[-1] = max(tokens[-1], data.max_tokens)
    unit, longest = math.gcd(batch_size, data.row_multiple), whole_frames(data.max_seconds, features)
    sizes = [whole_frames(s, features) for s in seconds]
    return [
        BatchShape(batch_size * longest // size // unit * unit, size, t) for size, t in zip(sizes, tokens, strict=True)
    ]


def continuation_capacity(samples: int, data: DataConfig, features: FeatureConfig) -> int:
    """Frames of continuation that fit into a batch whose rows have `samples` samples.

    In the longest bucket that is max_continuation_seconds, in a shorter one what prompt_seconds leave of it.
    """
    most = features.num_frames(round(data.max_continuation_seconds * features.sample_rate))
    if not data.buckets or samples >= whole_frames(data.max_seconds, features):
        return most
    prompt = features.num_frames(round(data.prompt_seconds * features.sample_rate))
    return max(0, min(most, samples // features.hop - prompt))


def bucket_ids(
    source: Source, name: str, data: DataConfig, features: FeatureConfig, shapes: Sequence[BatchShape]
) -> np.ndarray:
    """int8 [N]: the bucket of each record, the first that fits its samples, its continuation and its text.

    The records of a source without `lengths` are all in the longest bucket. Raises UserError if data.bucket_tokens is
    set and the source has no `tokens`.
    """
    lengths, prompts = source.lengths, source.prompts
    if lengths is None and source.text_only:
        lengths = np.zeros(len(source), np.int64)
    if lengths is None:
        return np.full(len(source), len(shapes) - 1, np.int8)
    tokens = source.tokens if data.bucket_tokens else None
    if data.bucket_tokens and tokens is None:
        raise UserError(f"data.bucket_tokens: task {name!r} does not know its tokens before reading; give none.")
    prompt, slack = round(data.prompt_seconds * features.sample_rate), round(SLACK_SECONDS * features.sample_rate)
    buckets = np.zeros(len(lengths), np.int8)
    for start in range(0, len(lengths), AT_ONCE):
        block = slice(start, start + AT_ONCE)
        samples = np.asarray(lengths[block], np.int64)
        needed = samples + np.where(samples > 0, slack, 0)
        if prompts is not None:  # a shorter one leaves more to continue than its batch would have frames for
            given = np.asarray(prompts[block], np.int64)
            needed += np.where(samples > given, np.maximum(prompt - given, 0), 0)
        first = _first_fitting([shape.samples for shape in shapes], needed)
        if tokens is not None:
            first = np.maximum(first, _first_fitting([shape.tokens for shape in shapes], tokens[block]))
        buckets[block] = first
    return buckets


def _first_fitting(limits: Sequence[int], sizes: np.ndarray) -> np.ndarray:
    """int8 [N]: the first of the rising limits that is not below each size, or the last."""
    first = np.zeros(len(sizes), np.int8)
    for limit in limits[:-1]:  # for so few limits several times as fast as searching among them
        first += sizes > limit
    return first


class BucketIndex(Records):
    """The rows of a mixture, bucket by bucket; a step is a pure function of (seed, step).

    Row numbers count within a bucket: row j of bucket b is number j · buckets + b. A bucket with fewer records than a
    batch has rows is joined with the next longer one. Tasks are mixed in every bucket according to their rates and
    their records' lengths. A bad record is replaced by the next of its task and bucket, else by one of a shorter
    bucket.
    """

    def __init__(
        self,
        names: Sequence[str],
        sources: Sequence[Source],
        rates: Sequence[float],
        seed: int,
        shapes: Sequence[BatchShape],
        record_buckets: Sequence[np.ndarray],
        readers: int = 0,
    ):
        super().__init__(names, sources, readers)
        counts = np.stack([np.bincount(buckets, minlength=len(shapes)) for buckets in record_buckets])
        joined = np.arange(len(shapes))
        for bucket in range(len(shapes) - 1):
            if counts[:, bucket].sum() < shapes[bucket].rows:
                counts[:, bucket + 1] += counts[:, bucket]
                counts[:, bucket] = 0
                joined[joined == bucket] = bucket + 1
        used = np.flatnonzero(counts.sum(axis=0)).tolist()
        self.shapes = [shapes[b] for b in used]
        placed = [joined.astype(np.int8)[buckets] for buckets in record_buckets]
        self.cells = [[np.flatnonzero(buckets == b).astype(np.int32) for b in used] for buckets in placed]
        self.counts = counts[:, used]  # [tasks, buckets] records
        self._quotas = self._period(np.asarray(rates, np.float64))
        # A mixture's batches are shuffled within about an epoch of all its tasks, not within its whole period.
        self._cuts = 1 if len(sources) == 1 else max(1, PERIOD // int(counts.sum()))
        self._patterns = [_spread(quotas) for quotas in self._quotas.T]
        self._permutations = Permutations(seed)
        self._seed = seed
        self._shuffles: dict[int, list[tuple[int, int]]] = {}
        self._shuffle_lock = threading.Lock()

    def _period(self, rates: np.ndarray) -> np.ndarray:
        """int64 [tasks, buckets]: rows in a period: an epoch of a single task, else PERIOD rows by the rates."""
        if len(rates) == 1:
            return self.counts.astype(np.int64)
        share = (rates / rates.sum())[:, None] * self.counts / self.counts.sum(axis=1, keepdims=True)
        return np.where(self.counts > 0, np.maximum(np.round(share * PERIOD), 1), 0).astype(np.int64)

    def full(self, period: int) -> list[int]:
        """How many batches of each bucket are full before a period (the n-th epoch, or cut of a mixture's)."""
        quotas = self._quotas.sum(axis=0).tolist()
        return [period * m // (self._cuts * shape.rows) for m, shape in zip(quotas, self.shapes, strict=True)]

    def step(self, step: int) -> tuple[BatchShape, Sequence[int]]:
        """The shape of a step's batch and its row numbers, of all processes."""
        period = self._period_of(step)
        bucket, ordinal = self._batches(period)[step - sum(self.full(period))]
        shape = self.shapes[bucket]
        first = ordinal * shape.rows * len(self.shapes) + bucket  # Python's own integers: they do not overflow
        return shape, range(first, first + shape.rows * len(self.shapes), len(self.shapes))

    def _period_of(self, step: int) -> int:
        """The last period that no more than `step` batches come before."""
        each = sum(self._quotas.sum(axis=0) / [self._cuts * shape.rows for shape in self.shapes])
        # full() rounds down once per bucket, so the period lies in this range.
        first, last = int(step / each) - 1, int((step + len(self.shapes)) / each) + 2
        periods = range(max(first, 0), last + 1)
        return periods[bisect.bisect_right(periods, step, key=lambda period: sum(self.full(period))) - 1]

    def _batches(self, period: int) -> list[tuple[int, int]]:
        """(bucket, which of its batches) of every step of a period."""
        with self._shuffle_lock:
            if period not in self._shuffles:
                for old in [p for p in self._shuffles if p < period - 1]:
                    del self._shuffles[old]
                spans = [range(a, b) for a, b in zip(self.full(period), self.full(period + 1), strict=True)]
                listed = [(bucket, ordinal) for bucket, span in enumerate(spans) for ordinal in span]
                order = np.random.default_rng((self._seed, len(self.shapes), period)).permutation(len(listed))
                self._shuffles[period] = [listed[i] for i in order]
            return self._shuffles[period]

    def place(self, row: int) -> tuple[int, int]:
        """(task, how many rows of that task came before in the row's bucket)."""
        row, bucket = divmod(row, len(self.shapes))
        if len(self.sources) == 1:
            return 0, row
        tasks, before = self._patterns[bucket]
        block, offset = divmod(row, len(tasks))
        task = int(tasks[offset])
        return task, block * int(self._quotas[task, bucket]) + int(before[offset])

    def record(self, task: int, bucket: int, ordinal: int) -> int:
        """The number of the record that is `ordinal`-th in the order of a task's part of a bucket."""
        cell = self.cells[task][bucket]
        return int(cell[self._permutations.at((task, bucket), ordinal, len(cell), self.names[task], bucket)])

    def candidates(self, row: int) -> Iterator[tuple[int, int]]:
        """The row's record, those after it in its task and bucket, of shorter buckets, and of the other tasks."""
        bucket, (first, start) = row % len(self.shapes), self.place(row)
        for task in [first, *(t for t in range(len(self.sources)) if t != first)]:
            for cell in range(bucket, -1, -1):
                # Twice its size: this covers each of its records, wherever in it an epoch ends.
                for ordinal in range(start, start + 2 * len(self.cells[task][cell])):
                    yield task, self.record(task, cell, ordinal)

    def read(self, row: int, task: int, number: int) -> Example:
        """A record for a row. Raises BadExample when it is longer than its source stated and does not fit."""
        example, shape = super().read(row, task, number), self.shapes[row % len(self.shapes)]
        if len(example.samples) > shape.samples:
            raise BadExample(
                f"{example.id!r} has {len(example.samples)} samples, more than its stated length; correct its duration."
            )
        return example

    def shares(self) -> dict[BatchShape, float]:
        """The share of batches of each bucket."""
        batches = self._quotas.sum(axis=0) / [shape.rows for shape in self.shapes]
        return dict(zip(self.shapes, (batches / batches.sum()).tolist(), strict=True))


def _spread(quotas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For the M rows of a period in a bucket: int8 [M] tasks, evenly spread, int64 [M] how many of each came before."""
    tasks = np.repeat(np.arange(len(quotas), dtype=np.int8), quotas)
    before = np.concatenate([np.arange(quota) for quota in quotas])
    order = np.argsort((before + 0.5) / np.repeat(quotas, quotas), kind="stable")
    return tasks[order], before[order]
