"""Packed tasks: examples in flat files that numpy alone reads, for machines without TensorFlow, seqio or librosa.

DIR/TASK/ holds samples.bin (int16, one utterance after the other), index.npz and meta.json. Texts are held as tokens
too, with the checksum of their vocabulary: a SentencePiece model is not needed to read them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.config import DataConfig, FeatureConfig, SentencePieceConfig
from spectron.data.example import EXAMPLE_FIELDS, Source
from spectron.data.fitting import TOO_MANY
from spectron.data.vocabulary import lacks_pieces, make_vocabulary
from spectron.types import Example, UserError

VERSION = 3


class PackedSource(Source):
    """A packed task as a source. What does not fit the batch's limits is left out and counted.

    Raises UserError for a folder that is missing, half copied, or packed at another sample rate or with another
    vocabulary or normaliser.
    """

    seeded = False

    def __init__(self, root: str, task_name: str, data: DataConfig, features: FeatureConfig):
        folder = Path(root) / task_name
        try:
            meta = json.loads((folder / "meta.json").read_text())
            # Opened here: NumPy leaves a file that it cannot read open.
            with (folder / "index.npz").open("rb") as file, np.load(file) as index:
                self._index = {name: index[name] for name in index.files}
            size = (folder / "samples.bin").stat().st_size
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"data.packed: {str(folder)!r} is not a packed task ({error}); write it with: spectron data pack."
            ) from error
        if meta["version"] != VERSION or meta["sample_rate"] != features.sample_rate:
            raise UserError(
                f"data.packed: {str(folder)!r} was packed at {meta['sample_rate']} Hz by version {meta['version']}, "
                f"not {features.sample_rate} Hz and {VERSION}; pack it again."
            )
        _check_texts(folder, meta, task_name, data)
        self._starts = self._index["starts"]
        if size != 2 * self._starts[-1]:
            raise UserError(f"data.packed: {str(folder / 'samples.bin')!r} is cut short; copy or pack it again.")
        self._samples = np.zeros(0, np.int16)
        if size:
            self._samples = np.memmap(folder / "samples.bin", "<i2", "r").view(np.ndarray)
        self.text_only = bool(meta["text_only"])
        self.rejected: dict[str, list[str]] = {}
        self._usable = self._fitting(data, features.sample_rate)
        self.tokens = np.diff(self._index["token_ids_starts"])[self._usable]  # int64 [N], eos included
        self.lengths = self._stated("lengths", np.diff(self._starts)) if meta.get("sized", True) else None
        self.prompts = self._stated("prompts", self._index["prompt_samples"]) if self.lengths is not None else None

    def _fitting(self, data: DataConfig, rate: int) -> np.ndarray:
        total, prompt = np.diff(self._starts), self._index["prompt_samples"]
        tokens = np.diff(self._index["token_ids_starts"])
        usable = np.ones(len(total), bool)
        limits: Sequence[tuple[str, np.ndarray, float]] = (
            ("longer than max_seconds", total, data.max_seconds * rate),
            ("prompt longer than max_prompt_seconds", prompt, data.max_prompt_seconds * rate),
            ("continuation longer than max_continuation_seconds", total - prompt, data.max_continuation_seconds * rate),
            (TOO_MANY, tokens, data.max_tokens),
        )
        for reason, sizes, limit in limits:
            misfits = np.flatnonzero(usable & (sizes > limit))
            if len(misfits):
                self.rejected[reason] = [self._value("id", int(i)) for i in misfits]
                usable[misfits] = False
        return np.flatnonzero(usable)

    def _stated(self, name: str, measured: np.ndarray) -> np.ndarray:
        return self._index.get(f"stated_{name}", measured)[self._usable].astype(np.int64)

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


def _check_texts(folder: Path, meta: Mapping[str, Any], task_name: str, data: DataConfig) -> None:
    """Raise UserError if the texts were packed with another vocabulary or normaliser than the config's."""
    config = data.vocabulary
    if isinstance(config, SentencePieceConfig) and config.size and lacks_pieces(config.path):
        same = meta["vocabulary_size"] == config.size  # all that is known without the model
    else:
        same = meta["vocabulary"] == make_vocabulary(config).checksum()
    if not same:
        raise UserError(
            f"data.packed: {str(folder)!r} was packed with another data.vocabulary, of {meta['vocabulary_size']} "
            f"tokens; set that one, or pack it again."
        )
    for task in data.tasks:
        if task.name == task_name and task.normaliser != meta["normaliser"]:
            raise UserError(
                f"data.packed: {str(folder)!r} was packed with data.tasks.{task_name}.normaliser={meta['normaliser']}, "
                f"not {task.normaliser}; set that one, or pack it again."
            )
