"""Continuous batching: a slot whose answer is done takes the next prompt at once, while the other slots continue."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from spectron.audio.fft_slots import fft_slot
from spectron.inference import decode
from spectron.inference.decode import FREE, Decoded, DecodeState
from spectron.inference.decode_config import DecodeConfig
from spectron.types import Params, Statistics
from spectron.utils import programs

PROMPT_BUCKETS = 4  # ours: lengths that prompts are padded to, one compiled program each
PREFILL_THREADS = 2  # ours
PREFILL_AHEAD = 8  # ours: prompts that are prefilled before a slot is free for them
NO_LIMIT = np.iinfo(np.int32).max


class Request(NamedTuple):
    """A prompt for the engine.

    samples: int16. number: its randomness is fold_in(seed, number). forced: token ids that the answer must begin with,
    FREE (−1) for those that the model chooses. tag: opaque user data.
    """

    samples: Int[np.ndarray, " S"]
    number: int
    forced: tuple[int, ...] = ()
    tag: Any = None


def padded_length(num_samples: int, max_samples: int, hop: int) -> int:
    """The samples that a prompt is padded to: the next of PROMPT_BUCKETS equal parts of the longest, in whole frames.

    Raises ValueError for a prompt that is longer than the longest.
    """
    for part in range(1, PROMPT_BUCKETS + 1):
        padded = -(-max_samples * part // PROMPT_BUCKETS // hop) * hop if part < PROMPT_BUCKETS else max_samples
        if num_samples <= padded:
            return padded
    raise ValueError(f"a prompt of {num_samples} samples is longer than {max_samples}")


class Engine:
    """Slots on the device of `weights`, and the requests that they answer.

    An answer is the same to the bit in every slot, at every time and with any other requests: a prompt is prefilled
    alone, and no slot reads another. `prefill` may be called by any thread; all else belongs to one thread.
    """

    def __init__(
        self, weights: Params, statistics: Statistics, config: DecodeConfig, num_slots: int, seed: int = 0
    ) -> None:
        self.config = config
        self._weights = weights
        self._statistics = statistics
        self._key = jax.random.key(seed)
        self.state = decode.init_state(weights, config=config, num_slots=num_slots)
        self._requests: dict[int, Request] = {}  # by slot
        self._free = list(range(num_slots))[::-1]

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return not self._free

    @property
    def busy(self) -> bool:
        """Whether any answer is under way."""
        return bool(self._requests)

    def prefill(self, request: Request) -> DecodeState:
        """One slot that has read a request's prompt, for `insert`."""
        size = len(request.samples)
        samples = np.zeros((1, padded_length(size, self.config.max_prompt_samples, self.config.features.hop)), np.int16)
        samples[0, :size] = request.samples
        forced = np.full((1, self.config.text_tokens), FREE, np.int32)
        forced[0, : len(request.forced)] = request.forced
        keys = jax.random.fold_in(self._key, request.number)[None]
        lengths = np.array([size], np.int32)
        with fft_slot() as wait:
            given = self._weights, self._statistics, samples, lengths, keys, forced
            state = programs.call(decode.prefill, given, {"config": self.config}, like=self.state)
            return jax.block_until_ready(state) if wait else state

    def insert(self, request: Request, prefilled: DecodeState) -> int:
        """Give a prefilled request a free slot; returns the slot's number."""
        slot = self._free.pop()
        self.state = decode.insert(self.state, prefilled, np.int32(slot))
        self._requests[slot] = request
        return slot

    def decode(self, max_steps: int = NO_LIMIT) -> list[tuple[Request, Decoded]]:
        """Decode until at least one answer is done, at most `max_steps` steps; returns finished answers, on the host.

        Their slots are free afterwards.
        """
        given = self._weights, self.state, np.int32(max_steps)
        self.state = programs.call(decode.decode_until_done, given, {"config": self.config}, like=self.state)
        done = np.asarray(self.state.done)
        ended = [slot for slot in sorted(self._requests) if done[slot]]
        answers = jax.device_get([decode.read_slot(self.state, np.int32(slot), self._statistics) for slot in ended])
        self._free += ended[::-1]
        return [(self._requests.pop(slot), answer) for slot, answer in zip(ended, answers, strict=True)]

    def read_slot(self, slot: int) -> Decoded:
        """What a slot has written and spoken so far, on the host."""
        return jax.device_get(decode.read_slot(self.state, np.int32(slot), self._statistics))

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Decoded]]:
        """Each request with its answer, in the order in which they are done; requests are read as slots become free."""
        remaining, ahead = iter(requests), min(len(self._free), PREFILL_AHEAD)
        waiting: collections.deque[tuple[Request, concurrent.futures.Future[DecodeState]]] = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(PREFILL_THREADS) as pool:
            while True:
                while len(waiting) < ahead and (request := next(remaining, None)) is not None:
                    waiting.append((request, pool.submit(self.prefill, request)))
                if waiting and not self.full:
                    request, prefilled = waiting.popleft()
                    self.insert(request, prefilled.result())
                elif self.busy:
                    yield from self.decode()
                else:
                    return
