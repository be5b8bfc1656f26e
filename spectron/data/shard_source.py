"""Training examples from a folder of shards."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.fitting import TOO_MANY, WITHOUT_TEXT, Fitting
from spectron.data.shard_index import FolderIndex, Ids
from spectron.data.shards import Shards
from spectron.types import Example, UserError

BLOCK = 1 << 20  # ours: records that are compared with the limits at once, for the memory of millions


class ShardSource(Source):
    """The utterances of a folder of shards (root/SPLIT or root) that fit the limits of the data config.

    lengths: int32 [N], samples of every example at the features' rate. Audio is read only by __getitem__. `rejected`
    names what was left out, by reason.
    """

    reads_files = True
    seeded = False
    normalises = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        root = task.root or data.root
        if not root or not Path(root).is_dir():
            raise UserError(f"Task {task.name!r}: root {root!r} is not a folder; give a folder of shards.")
        split_folder = Path(root) / task.split
        folder = split_folder if split_folder.is_dir() else Path(root)
        self._index = FolderIndex(folder)
        self._shards = Shards(folder, self._index.paths, self._index.sizes)
        self._data = data
        self._rate = features.sample_rate
        self._fitting = Fitting(task, data, features)
        blocks = [self._fit(start) for start in range(0, len(self._index), BLOCK)]
        self._usable = np.concatenate([np.zeros(0, np.int32), *(usable for usable, *_ in blocks)])
        self.lengths = np.concatenate([np.zeros(0, np.int32), *(lengths for _, lengths, _ in blocks)])
        misfits: dict[str, list[np.ndarray]] = {}
        for *_, found in blocks:
            for reason, records in found.items():
                misfits.setdefault(reason, []).append(records)
        self.rejected: Mapping[str, Sequence[str]] = {
            reason: Ids(self._index, np.concatenate(parts)) for reason, parts in misfits.items()
        }

    def _fit(self, start: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Of BLOCK records from `start`: int32 the usable ones, int32 their lengths in samples, reason → the others."""
        data, index, block = self._data, self._index, slice(start, start + BLOCK)
        counts, rates = index.num_samples[block].astype(np.int64), np.maximum(index.sample_rate[block], 1)
        seconds, empty = counts / rates, index.text_bytes[block] == 0
        continuations = seconds - data.prompt_seconds
        checks = {
            "shorter than the prompt plus min_continuation_seconds": continuations < data.min_continuation_seconds,
            "longer than max_seconds": seconds > data.max_seconds,
            "prompt longer than max_prompt_seconds": seconds * 0 + data.prompt_seconds > data.max_prompt_seconds,
            "continuation longer than max_continuation_seconds": continuations > data.max_continuation_seconds,
            WITHOUT_TEXT: empty,
        }
        if self._counts is not None:
            checks[WITHOUT_TEXT] = empty | (self._counts[block] == 1)
            checks[TOO_MANY] = self._counts[block] > data.max_tokens
        usable = np.ones(len(counts), bool)
        misfits = {}
        for reason, misfit in checks.items():
            if (first := np.flatnonzero(usable & misfit)).size:
                misfits[reason] = (first + start).astype(np.int32)
            usable &= ~misfit
        records = np.flatnonzero(usable)
        lengths = -(-counts[records] * self._rate // rates[records])
        return (records + start).astype(np.int32), lengths.astype(np.int32), misfits

    @functools.cached_property
    def _counts(self) -> np.ndarray | None:
        """int32 [records of the folder]: tokens of each text; None if no text can have too many."""
        longest = int(self._index.text_bytes.max(initial=0))
        return self._index.tokens(self._fitting) if self._fitting.may_be_long(longest, raw=True) else None

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32 [N]: tokens of each text, including eos."""
        counts = self._index.tokens(self._fitting) if self._counts is None else self._counts
        return counts[self._usable]

    def __len__(self) -> int:
        return len(self._usable)

    def text_of(self, i: int) -> str:
        """The text of record i."""
        return self._fitting.text(self._shards[int(self._usable[i])].text)

    def __getitem__(self, i: int) -> Example:
        from spectron.audio import wav

        try:
            utterance = self._shards[int(self._usable[i])]
            samples = utterance.samples()
            if utterance.sample_rate != self._rate:
                samples = wav.decode_bytes(utterance.audio, utterance.id, self._rate)
        except UserError as error:
            raise BadExample(str(error)) from error
        text = self._fitting.text(utterance.text)
        # Almost every recording has sound in its first second: test that first.
        silent = not samples[: self._rate].any() and not samples.any()
        reason = "silent" if silent else self._fitting.text_misfit(text)
        if reason:
            raise BadExample(f"Utterance {utterance.id!r} is left out: {reason}.")
        return Example(
            samples=samples,
            prompt_samples=round(self._data.prompt_seconds * self._rate),
            text=text,
            id=utterance.id,
            speaker=utterance.speaker,
        )
