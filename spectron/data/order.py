"""The order of records: which record each row of a mixture holds, found in O(1) at any step, for every reader."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from spectron.data.example import BadExample, Source
from spectron.types import Example, UserError

log = logging.getLogger(__name__)

BLOCK = 1000  # ours: rows after which the interleaving of a mixture repeats; rates are exact to 1 / BLOCK
READERS = min(16, os.cpu_count() or 1)  # ours: threads that read recordings, unless data.readers is set
ENOUGH = 100  # ours: records tried before the share of bad ones is judged


class BatchShape(NamedTuple):
    """The shape of a batch: rows over all processes, samples and tokens of a row."""

    rows: int
    samples: int
    tokens: int


Step = tuple[BatchShape, Sequence[int]]  # the shape of a step's batch and the numbers of its rows, or of a process's
Steps = Callable[[], Iterator[Step]]  # starts an iterator over the steps


def interleaving(rates: Sequence[float]) -> np.ndarray:
    """int [BLOCK]: the task of each row, every task spread as evenly as its rate allows, so that batches are alike.

    Every task has at least one row, however small its rate. Raises UserError for more tasks than rows.
    """
    if len(rates) > BLOCK:
        raise UserError(f"A mixture of {len(rates)} tasks is too large; give at most {BLOCK} in data.mixtures.")
    share = np.asarray(rates, np.float64) / np.sum(rates)
    counts = np.maximum(np.floor(share * BLOCK).astype(int), 1)
    while counts.sum() != BLOCK:
        sign = 1 if counts.sum() < BLOCK else -1
        lacking = np.where((counts > 1) | (sign > 0), sign * (share * BLOCK - counts), -np.inf)
        counts[int(np.argmax(lacking))] += sign
    credit, pattern = np.zeros(len(counts), int), np.empty(BLOCK, int)
    for row in range(BLOCK):
        credit += counts
        pattern[row] = np.argmax(credit)
        credit[pattern[row]] -= BLOCK
    return pattern


class Records:
    """Records of several tasks, read by threads.

    A record that cannot be used is replaced by another, counted, and logged once by name; subclasses define the order
    and the replacements.
    """

    def __init__(self, names: Sequence[str], sources: Sequence[Source], readers: int = 0):
        for name, source in zip(names, sources, strict=True):
            if not len(source):
                raise UserError(f"Task {name!r} has no usable example; {_why(source)}.")
        self.names = tuple(names)
        self.sources = tuple(sources)
        self.text_only = all(source.text_only for source in sources)
        self.bad: list[dict[int, str]] = [{} for _ in names]
        self._good = [0] * len(names)
        self._lock = threading.Lock()
        reads_files = any(source.reads_files for source in sources)
        self._pool = ThreadPoolExecutor(readers or READERS, "spectron-read") if reads_files else None

    def place(self, row: int) -> tuple[int, int]:
        """(task, number of earlier rows of that task in the same sequence of rows)."""
        raise NotImplementedError

    def candidates(self, row: int) -> Iterator[tuple[int, int]]:
        """(task, number of a record): the row's record, then its replacements in order."""
        raise NotImplementedError

    def read(self, row: int, task: int, number: int) -> Example:
        """A record for a row. Raises BadExample when it cannot be used there."""
        return self.sources[task][number]

    def fetch_all(self, rows: Sequence[int]) -> list[Example]:
        """The examples of some rows; files are read by a few threads (decoders release the interpreter's lock)."""
        return list(self.start(rows))

    def start(self, rows: Sequence[int]) -> Iterator[Example]:
        """The same, started now: threads read while the caller does other work."""
        return map(self.fetch, rows) if self._pool is None else self._pool.map(self.fetch, rows)

    def fetch(self, row: int) -> Example:
        """The example of a row. Raises UserError when more than half of a task's records are bad."""
        for tried, (task, number) in enumerate(self.candidates(row)):
            with self._lock:
                known_bad = number in self.bad[task]
            if known_bad:
                continue
            try:
                example = self.read(row, task, number)
            except BadExample as error:
                with self._lock:
                    self._note(task, number, str(error))
            else:
                with self._lock:
                    self._good[task] += not tried  # a replacement is counted in its own row
                return example
        task = self.place(row)[0]
        last = next(reversed(self.bad[task].values()), "none was tried")
        raise UserError(f"Task {self.names[task]!r}: no record fits a row any more, the last bad one: {last}")

    def _note(self, task: int, number: int, message: str) -> None:
        if number not in self.bad[task]:  # two threads may have read it at once
            self.bad[task][number] = message
            log.warning(
                "Task %r: record left out (%d so far): %s",
                self.names[task],
                len(self.bad[task]),
                message,
            )
            self._judge(task)

    def _judge(self, task: int) -> None:
        bad, size = len(self.bad[task]), len(self.sources[task])
        tried = bad + self._good[task]
        if 2 * bad > size or (tried >= ENOUGH and 2 * bad > tried):
            last = next(reversed(self.bad[task].values()))
            raise UserError(f"Task {self.names[task]!r}: {bad} of {tried} records tried are bad, the last: {last}")


class Permutations:
    """Seeded permutations, one for each key and epoch; safe to use from many threads."""

    def __init__(self, seed: int):
        self._seed = seed
        self._lock = threading.Lock()
        self._kept: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def at(self, key: tuple[int, ...], ordinal: int, size: int, name: str, *more: int) -> int:
        """Element `ordinal` of an endless sequence of permutations of range(size), drawn for (seed, name, more)."""
        epoch, position = divmod(ordinal, size)
        with self._lock:
            if (key, epoch) not in self._kept:
                # Replacing a bad record may look one epoch ahead, and seqio/tasks.py prefetches.
                for old in [k for k in self._kept if k[0] == key and k[1] < epoch - 2]:
                    del self._kept[old]
                entropy = (self._seed, zlib.crc32(name.encode()), epoch, *more)
                numbers = np.arange(size, dtype=np.int32 if size < 1 << 31 else np.int64)  # half the memory of millions
                self._kept[key, epoch] = np.random.default_rng(entropy).permutation(numbers)
            return int(self._kept[key, epoch][position])


class MixtureIndex(Records):
    """The endless rows of a mixture; row r is a pure function of (seed, r).

    Each task's records come in a seeded permutation per epoch; a bad one is replaced by the next in that order.
    """

    def __init__(
        self, names: Sequence[str], sources: Sequence[Source], rates: Sequence[float], seed: int, readers: int = 0
    ):
        super().__init__(names, sources, readers)
        self._pattern = interleaving(rates)
        self._before = np.stack([np.cumsum(self._pattern == t) - (self._pattern == t) for t in range(len(names))])
        self._counts = np.bincount(self._pattern, minlength=len(names))
        self._permutations = Permutations(seed)

    def place(self, row: int) -> tuple[int, int]:
        """(task, how many rows of that task came before)."""
        block, offset = divmod(row, BLOCK)
        task = int(self._pattern[offset])
        return task, int(block * self._counts[task] + self._before[task, offset])

    def record(self, task: int, ordinal: int) -> int:
        """The number of the record that is `ordinal`-th in the task's order."""
        return self._permutations.at((task,), ordinal, len(self.sources[task]), self.names[task])

    def candidates(self, row: int) -> Iterator[tuple[int, int]]:
        """The row's record and those after it in its task's order."""
        task, first = self.place(row)
        return ((task, self.record(task, ordinal)) for ordinal in itertools.count(first))


def _why(source: Source) -> str:
    if not source.rejected:
        return "its source is empty"
    return "left out: " + ", ".join(f"{len(ids)} {reason}" for reason, ids in source.rejected.items())
