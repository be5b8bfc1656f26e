"""Which record stands in which row: one deterministic order for every reader, found in O(1) at any step."""

from __future__ import annotations

import logging
import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from spectron.data.sources import BadExample, Source
from spectron.types import Example, UserError

log = logging.getLogger(__name__)

BLOCK = 1000  # ours: rows after which the interleaving of a mixture repeats; rates are exact to one in so many
READERS = min(4, os.cpu_count() or 1)  # ours: threads that read recordings
ENOUGH = 100  # ours: records tried before the share of bad ones is judged


def interleaving(rates: Sequence[float]) -> np.ndarray:
    """int [BLOCK]: the task of each row, every task as evenly spread as its rate allows (so batches are alike)."""
    share = np.asarray(rates, np.float64) / np.sum(rates)
    counts = np.maximum(np.floor(share * BLOCK).astype(int), 1)
    while counts.sum() != BLOCK:
        sign = 1 if counts.sum() < BLOCK else -1
        counts[int(np.argmax(sign * (share * BLOCK - counts)))] += sign
    credit, pattern = np.zeros(len(counts), int), np.empty(BLOCK, int)
    for row in range(BLOCK):
        credit += counts
        pattern[row] = np.argmax(credit)
        credit[pattern[row]] -= BLOCK
    return pattern


class Rows:
    """The endless rows of a mixture; row r is a pure function of (seed, r).

    Each task's records come in a seeded permutation per epoch. A record that cannot be used is replaced by the next one
    in its task's order, counted, and named once in the log.
    """

    def __init__(
        self,
        names: Sequence[str],
        sources: Sequence[Source],
        rates: Sequence[float],
        seed: int,
    ):
        for name, source, rate in zip(names, sources, rates, strict=True):
            if not len(source):
                raise UserError(f"Task {name!r} has no usable example; {_why(source)}.")
            if rate <= 0:
                raise UserError(f"The rate of task {name!r} in its mixture must be positive, not {rate}.")
        self.names, self.sources = tuple(names), tuple(sources)
        self.text_only = all(getattr(source, "text_only", False) for source in sources)
        self._seed = seed
        self._pattern = interleaving(rates)
        self._before = np.stack([np.cumsum(self._pattern == t) - (self._pattern == t) for t in range(len(names))])
        self._counts = np.bincount(self._pattern, minlength=len(names))
        self._permutations: dict[tuple[int, int], np.ndarray] = {}
        self.bad: list[dict[int, str]] = [{} for _ in names]
        self._good = [0] * len(names)
        self._lock = threading.Lock()
        reads_files = any(getattr(source, "reads_files", False) for source in sources)
        self._pool = ThreadPoolExecutor(READERS, "spectron-read") if reads_files else None

    def place(self, row: int) -> tuple[int, int]:
        """(task, how many rows of that task came before)."""
        block, offset = divmod(row, BLOCK)
        task = int(self._pattern[offset])
        return task, int(block * self._counts[task] + self._before[task, offset])

    def record(self, task: int, ordinal: int) -> int:
        """The number of the record that is `ordinal`-th in the task's order."""
        epoch, position = divmod(ordinal, len(self.sources[task]))
        key = (task, epoch)
        if key not in self._permutations:
            # Replacing a bad record may look one epoch ahead, and tasks.py reads a little ahead.
            for old in [k for k in self._permutations if k[0] == task and k[1] < epoch - 2]:
                del self._permutations[old]
            entropy = (self._seed, zlib.crc32(self.names[task].encode()), epoch)
            self._permutations[key] = np.random.default_rng(entropy).permutation(len(self.sources[task]))
        return int(self._permutations[key][position])

    def fetch_all(self, rows: Sequence[int]) -> list[Example]:
        """The examples of some rows; files are read by a few threads (decoders let go of the interpreter's lock)."""
        if self._pool is None:
            return [self.fetch(row) for row in rows]
        return list(self._pool.map(self.fetch, rows))

    def fetch(self, row: int) -> Example:
        """The example of a row. Raises UserError when more than half of a task's records are bad."""
        task, first = self.place(row)
        ordinal = first
        while True:
            with self._lock:
                number = self.record(task, ordinal)
                known_bad = number in self.bad[task]
            if not known_bad:
                try:
                    example = self.sources[task][number]
                except BadExample as error:
                    with self._lock:
                        self._note(task, number, str(error))
                else:
                    with self._lock:
                        self._good[task] += ordinal == first  # a stand-in is counted in its own place
                    return example
            ordinal += 1

    def _note(self, task: int, number: int, message: str) -> None:
        if number not in self.bad[task]:  # two threads may have met it at once
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


def _why(source: Source) -> str:
    if not source.rejected:
        return "its source is empty"
    return "left out: " + ", ".join(f"{len(ids)} {reason}" for reason, ids in source.rejected.items())
