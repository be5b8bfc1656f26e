"""Shards as a source of examples."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.recordings import SPARE_TOKENS, Fitting, report
from spectron.data.shards import Shards
from spectron.types import Example, UserError


class ShardSource(Source):
    """Utterances of a folder of shards (root/SPLIT, or root itself); what cannot fit is left out, and counted.

    lengths: int64 [N], samples of every example at the features' rate. No audio is read until an example is.
    """

    reads_files = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        root = task.root or data.root
        if not root or not Path(root).is_dir():
            raise UserError(f"Task {task.name!r}: root {root!r} is no folder; give one that holds shards.")
        inner = Path(root) / task.split
        self._shards = Shards(inner if inner.is_dir() else root)
        self._data, self._rate = data, features.sample_rate
        self._fitting = Fitting(data, features)
        self.rejected: dict[str, list[str]] = {}
        usable, lengths = [], []
        for shard in range(len(self._shards.paths)):
            kept, samples = self._fit(shard)
            usable.append(kept + self._shards.starts[shard])
            lengths.append(samples)
        self._usable, self.lengths = np.concatenate(usable), np.concatenate(lengths)
        report(task.name, len(self._usable), self.rejected)

    def _fit(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """A shard → (its usable records, their samples at our rate)."""
        data, index = self._data, self._shards.index(shard)
        counts, rates = index.numbers("num_samples"), np.maximum(index.numbers("sample_rate"), 1)
        seconds, rest = counts / rates, counts / rates - data.prompt_seconds
        sizes = index.string_sizes("text")
        reasons = np.full(len(counts), "", object)
        checks = (
            ("shorter than the prompt plus min_continuation_seconds", rest < data.min_continuation_seconds),
            ("longer than max_seconds", seconds > data.max_seconds),
            ("prompt longer than max_prompt_seconds", seconds * 0 + data.prompt_seconds > data.max_prompt_seconds),
            ("continuation longer than max_continuation_seconds", rest > data.max_continuation_seconds),
            ("without text", sizes == 0),
        )
        for reason, misfits in checks:
            reasons[misfits & (reasons == "")] = reason
        doubtful = np.flatnonzero((reasons == "") & (sizes + SPARE_TOKENS > data.max_tokens))
        if len(doubtful):
            texts = index.strings("text")
            for record in doubtful.tolist():
                reasons[record] = self._fitting.text_misfit(" ".join(texts[record].split()))
        if (misfits := np.flatnonzero(reasons != "")).size:
            ids = index.strings("id")
            for record in misfits.tolist():
                self.rejected.setdefault(reasons[record], []).append(ids[record])
        index.close()
        kept = np.flatnonzero(reasons == "")
        return kept, -(-counts[kept] * self._rate // rates[kept]).astype(np.int64)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included; counted when data.bucket_tokens asks for them."""
        counted = []
        for shard in range(len(self._shards.paths)):
            index = self._shards.index(shard)
            counted.append(self._fitting.tokens([" ".join(text.split()) for text in index.strings("text")]))
            index.close()
        return np.concatenate(counted)[self._usable]

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, i: int) -> Example:
        from spectron.audio import wav

        try:
            utterance = self._shards[int(self._usable[i])]
            samples = utterance.samples()
            if utterance.sample_rate != self._rate:
                samples = wav.decode_bytes(utterance.audio, utterance.id, self._rate)
        except UserError as error:
            raise BadExample(str(error)) from error
        text = " ".join(utterance.text.split())
        # A look at the start spares almost every recording the whole way.
        silent = not samples[: self._rate].any() and not samples.any()
        reason = "silent" if silent else self._fitting.text_misfit(text)
        if reason:
            raise BadExample(f"Utterance {utterance.id!r}: it is left out, being {reason}.")
        return Example(
            samples,
            round(self._data.prompt_seconds * self._rate),
            text,
            utterance.id,
            utterance.speaker,
        )
