"""Continuous batching: a row that is done takes the next prompt at once, while the others go on."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from spectron.audio.fft_slots import fft_slot
from spectron.config import Experiment
from spectron.inference import decode
from spectron.inference.decode import Decoded, Limits, Rows
from spectron.types import Params, Statistics

SIZES = 4  # ours: lengths that prompts are padded to, one program each
AHEAD, HEARERS = 8, 2  # ours: prompts heard before a row is free for them, and threads that do it
NEVER = np.iinfo(np.int32).max


class Request(NamedTuple):
    """A prompt. number: draws from fold_in(seed, number); forced: tokens it must write, () for none; tag: the caller's
    own."""

    samples: Int[np.ndarray, " S"]
    number: int
    forced: tuple[int, ...] = ()
    tag: Any = None


def room_for(size: int, longest: int, hop: int) -> int:
    """The samples that a prompt of `size` is padded to: the next of SIZES equal parts of the longest, whole frames."""
    for part in range(1, SIZES + 1):
        padded = -(-longest * part // SIZES // hop) * hop if part < SIZES else longest
        if size <= padded:
            return padded
    raise ValueError(f"a prompt of {size} samples is longer than {longest}")


class Batch:
    """So many rows on the device of `weights`, and the requests they are answering."""

    def __init__(
        self,
        weights: Params,
        statistics: Statistics,
        experiment: Experiment,
        limit: Limits,
        rows: int,
        longest: int,
        seed: int = 0,
    ) -> None:
        """longest: samples of the longest prompt."""
        self._weights, self._statistics, self._experiment = weights, statistics, experiment
        self._longest, self._limit = longest, limit
        self._key = jax.random.key(seed)
        room = decode.positions(longest, experiment, limit)
        self.rows = decode.idle(weights, experiment=experiment, limit=limit, batch=rows, room=room)
        self._asked: dict[int, Request] = {}
        self._free = list(range(rows))[::-1]

    @property
    def full(self) -> bool:
        """Whether no row is free."""
        return not self._free

    @property
    def busy(self) -> bool:
        """Whether any row is under way."""
        return bool(self._asked)

    def hear(self, request: Request) -> Rows:
        """The row of a request, for `admit`; any thread may ask for it while others run."""
        size = len(request.samples)
        samples = np.zeros(room_for(size, self._longest, self._experiment.features.hop), np.int16)
        samples[:size] = request.samples
        forced = np.zeros(self._limit.tokens, np.int32)
        forced[: len(request.forced)] = request.forced
        key = jax.random.fold_in(self._key, request.number)
        with fft_slot() as wait:
            heard = decode.hear(
                *(self._weights, self._statistics, samples, np.int32(size), key, forced),
                experiment=self._experiment,
                limit=self._limit,
            )
            return jax.block_until_ready(heard) if wait else heard

    def admit(self, request: Request, heard: Rows) -> int:
        """Give a request a free row; returns its number."""
        row = self._free.pop()
        self.rows = decode.admit(self.rows, heard, np.int32(row))
        self._asked[row] = request
        return row

    def run(self, most: int = NEVER) -> list[tuple[Request, Decoded]]:
        """Go on until at least one row is done, at most so many steps; who is done, on the host, their rows free."""
        self.rows = decode.run(self._weights, self.rows, np.int32(most), experiment=self._experiment)
        done = np.asarray(self.rows.done)
        ended = [row for row in sorted(self._asked) if done[row]]
        said = jax.device_get([decode.take(self.rows, np.int32(row), self._statistics) for row in ended])
        self._free += ended[::-1]
        return [(self._asked.pop(row), out) for row, out in zip(ended, said, strict=True)]

    def peek(self, row: int) -> Decoded:
        """What a row has said so far, on the host."""
        return jax.device_get(decode.take(self.rows, np.int32(row), self._statistics))

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Decoded]]:
        """Requests → each with its answer, in the order in which they are done."""
        coming, ahead = iter(requests), min(len(self._free), AHEAD)
        waiting: collections.deque[tuple[Request, concurrent.futures.Future[Rows]]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(HEARERS) as pool:
            while True:
                while len(waiting) < ahead and (request := next(coming, None)) is not None:
                    waiting.append((request, pool.submit(self.hear, request)))
                if waiting and not self.full:
                    request, heard = waiting.popleft()
                    self.admit(request, heard.result())
                elif self.busy:
                    yield from self.run()
                else:
                    return
