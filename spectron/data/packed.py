"""Packed tasks: examples in flat files that numpy alone reads, for machines without TensorFlow, seqio or librosa.

DIR/TASK/ holds samples.bin (int16, one utterance after the other), index.npz and meta.json.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.config import DataConfig, FeatureConfig
from spectron.data.example import EXAMPLE_FIELDS, Source
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.types import Example, UserError

VERSION = 2


class PackedSource(Source):
    """A packed task as a source. What does not fit the batch's limits is left out and counted.

    Raises UserError for a folder that is missing, half copied, or packed at another sample rate.
    """

    seeded = False

    def __init__(self, root: str, task_name: str, data: DataConfig, features: FeatureConfig):
        folder = Path(root) / task_name
        try:
            meta = json.loads((folder / "meta.json").read_text())
            with np.load(folder / "index.npz") as index:
                self._index = {name: index[name] for name in index.files}
            size = (folder / "samples.bin").stat().st_size
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"data.packed: {str(folder)!r} is no packed task ({error}); write it with: spectron data pack."
            ) from error
        if meta["version"] != VERSION or meta["sample_rate"] != features.sample_rate:
            raise UserError(
                f"data.packed: {str(folder)!r} was packed at {meta['sample_rate']} Hz by version {meta['version']}, "
                f"not {features.sample_rate} Hz and {VERSION}; pack it again."
            )
        self._starts = self._index["starts"]
        if size != 2 * self._starts[-1]:
            raise UserError(f"data.packed: {str(folder / 'samples.bin')!r} is cut short; copy or pack it again.")
        self._samples = np.zeros(0, np.int16)
        if size:
            self._samples = np.memmap(folder / "samples.bin", "<i2", "r").view(np.ndarray)
        self.text_only = bool(meta["text_only"])
        self.rejected: dict[str, list[str]] = {}
        self._usable = self._fitting(data, features.sample_rate)
        self._data = data
        self.lengths = self._stated("lengths", np.diff(self._starts)) if meta.get("sized", True) else None
        self.prompts = self._stated("prompts", self._index["prompt_samples"]) if self.lengths is not None else None

    def _fitting(self, data: DataConfig, rate: int) -> np.ndarray:
        total, prompt = np.diff(self._starts), self._index["prompt_samples"]
        usable = np.ones(len(total), bool)
        limits: Sequence[tuple[str, np.ndarray, float]] = (
            ("longer than max_seconds", total, data.max_seconds),
            ("prompt longer than max_prompt_seconds", prompt, data.max_prompt_seconds),
            ("continuation longer than max_continuation_seconds", total - prompt, data.max_continuation_seconds),
        )
        for reason, lengths, limit in limits:
            misfits = np.flatnonzero(usable & (lengths > limit * rate))
            if len(misfits):
                self.rejected[reason] = [self._value("id", int(i)) for i in misfits]
                usable[misfits] = False
        return np.flatnonzero(usable)

    def _stated(self, name: str, measured: np.ndarray) -> np.ndarray:
        return self._index.get(f"stated_{name}", measured)[self._usable].astype(np.int64)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included."""
        vocabulary = make_vocabulary(self._data.vocabulary)
        texts = (self._value("text", int(i)) for i in self._usable)
        return np.asarray([len(encode_target(vocabulary, text)[0]) for text in texts], np.int64)

    def _value(self, name: str, i: int) -> Any:
        """A field of packed example i, of the type that Example states."""
        if EXAMPLE_FIELDS[name] is int:
            return int(self._index[name][i])
        starts = self._index[f"{name}_starts"]
        cut = self._index[name][starts[i] : starts[i + 1]]
        return cut.tobytes().decode() if EXAMPLE_FIELDS[name] is str else tuple(cut.tolist())

    def __len__(self) -> int:
        return len(self._usable)

    def text_of(self, i: int) -> str:
        """The text of record i."""
        return str(self._value("text", int(self._usable[i])))

    def __getitem__(self, i: int) -> Example:
        i = int(self._usable[i])
        fields = {name: self._value(name, i) for name in EXAMPLE_FIELDS}
        return Example(samples=self._samples[self._starts[i] : self._starts[i + 1]], **fields)
