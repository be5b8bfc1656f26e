"""Training examples from a folder of shards."""

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
    """The utterances of a folder of shards (root/SPLIT or root) that fit the limits of the data config.

    lengths: int64 [N], samples of every example at the features' rate. Audio is read only by __getitem__. `rejected`
    names what was left out, by reason.
    """

    reads_files = True
    seeded = False

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        root = task.root or data.root
        if not root or not Path(root).is_dir():
            raise UserError(f"Task {task.name!r}: root {root!r} is not a folder; give a folder of shards.")
        split_folder = Path(root) / task.split
        self._shards = Shards(split_folder if split_folder.is_dir() else root)
        self._data = data
        self._rate = features.sample_rate
        self._fitting = Fitting(data, features)
        self.rejected: dict[str, list[str]] = {}
        usable = []
        lengths = []
        for shard in range(len(self._shards.paths)):
            records, samples = self._fit(shard)
            usable.append(records + self._shards.starts[shard])
            lengths.append(samples)
        self._usable = np.concatenate(usable)
        self.lengths = np.concatenate(lengths)
        report(task.name, len(self._usable), self.rejected)

    def _fit(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        """The usable records of a shard, and their lengths in samples at the features' rate."""
        data = self._data
        index = self._shards.index(shard)
        counts = index.numbers("num_samples")
        rates = np.maximum(index.numbers("sample_rate"), 1)
        seconds = counts / rates
        continuations = seconds - data.prompt_seconds
        text_bytes = index.string_sizes("text")
        reasons = np.full(len(counts), "", object)
        checks = (
            ("shorter than the prompt plus min_continuation_seconds", continuations < data.min_continuation_seconds),
            ("longer than max_seconds", seconds > data.max_seconds),
            ("prompt longer than max_prompt_seconds", seconds * 0 + data.prompt_seconds > data.max_prompt_seconds),
            ("continuation longer than max_continuation_seconds", continuations > data.max_continuation_seconds),
            ("without text", text_bytes == 0),
        )
        for reason, misfits in checks:
            reasons[misfits & (reasons == "")] = reason
        # Only texts with many bytes can have too many tokens: tokenise those alone.
        long_texts = np.flatnonzero((reasons == "") & (text_bytes + SPARE_TOKENS > data.max_tokens))
        if len(long_texts):
            texts = index.strings("text")
            for record in long_texts.tolist():
                reasons[record] = self._fitting.text_misfit(" ".join(texts[record].split()))
        if (misfits := np.flatnonzero(reasons != "")).size:
            ids = index.strings("id")
            for record in misfits.tolist():
                self.rejected.setdefault(reasons[record], []).append(ids[record])
        index.close()
        records = np.flatnonzero(reasons == "")
        return records, -(-counts[records] * self._rate // rates[records]).astype(np.int64)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, including eos; computed at first use (data.bucket_tokens)."""
        counted = []
        for shard in range(len(self._shards.paths)):
            index = self._shards.index(shard)
            counted.append(self._fitting.tokens([" ".join(text.split()) for text in index.strings("text")]))
            index.close()
        return np.concatenate(counted)[self._usable]

    def __len__(self) -> int:
        return len(self._usable)

    def text_of(self, i: int) -> str:
        """The text of record i."""
        return self._shards[int(self._usable[i])].text

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
