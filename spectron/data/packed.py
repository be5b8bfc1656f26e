"""Packed tasks: examples in flat files that numpy alone reads, for machines without TensorFlow, seqio or librosa.

DIR/TASK/ holds samples.bin (int16, one utterance after the other), index.npz and meta.json.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from spectron.config import DataConfig, Experiment, FeatureConfig
from spectron.data.recordings import BadExample
from spectron.data.sources import Source
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.types import Example, UserError
from spectron.utils.files import write_folder

VERSION = 2


class PackReport(NamedTuple):
    """What was packed. left_out: one line for each record that could not be used."""

    folder: Path
    examples: int
    seconds: float
    left_out: list[str]


class _Index:
    """What is known of each example besides its samples."""

    def __init__(self, source: Source) -> None:
        # What the source said before reading: with it the records stand in the same buckets as before they were packed.
        known = {name: getattr(source, name, None) for name in ("lengths", "prompts")}
        self._known: dict[str, np.ndarray] = {name: array for name, array in known.items() if array is not None}
        self.stated: dict[str, list[int]] = {name: [] for name in self._known}
        self.lengths: list[int] = []
        self.prompt_samples: list[int] = []
        self.scored_words: list[int] = []
        self.word_ends: list[tuple[int, ...]] = []
        self.strings: dict[str, list[bytes]] = {"text": [], "id": [], "speaker": []}

    def add(self, number: int, example: Example) -> None:
        for name, stated in self.stated.items():
            stated.append(int(self._known[name][number]))
        self.lengths.append(len(example.samples))
        self.prompt_samples.append(example.prompt_samples)
        self.scored_words.append(example.scored_words)
        self.word_ends.append(example.word_ends)
        for name, values in self.strings.items():
            values.append(getattr(example, name).encode())

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {
            "starts": np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]),
            "prompt_samples": np.asarray(self.prompt_samples, np.int32),
            "scored_words": np.asarray(self.scored_words, np.int32),
            "word_ends": np.asarray([end for ends in self.word_ends for end in ends], np.int32),
            "word_ends_starts": _starts(self.word_ends),
        }
        arrays |= {f"stated_{name}": np.asarray(values, np.int64) for name, values in self.stated.items()}
        for name, strings in self.strings.items():
            arrays[name] = np.frombuffer(b"".join(strings), np.uint8)
            arrays[f"{name}_starts"] = _starts(strings)
        return arrays


def _starts(values: Sequence[Sized]) -> np.ndarray:
    """Where each of the values starts when they are laid end to end, and where the last one ends."""
    return np.concatenate([[0], np.cumsum([len(v) for v in values], dtype=np.int64)])


def pack(experiment: Experiment, task_name: str, out: str | Path) -> PackReport:
    """Write a task's examples to OUT/TASK, whole or not at all. UserError if it is there or nothing is usable."""
    from spectron.data.batches import source_of

    folder = Path(out) / task_name
    if experiment.data.packed:
        raise UserError("data.packed is set, so the task is packed already; clear it to pack from the data.")
    if folder.exists():
        raise UserError(f"{str(folder)!r} exists already; remove it or choose another folder.")
    source = source_of(experiment, task_name)
    index, left_out = _Index(source), []
    rate = experiment.features.sample_rate

    def write(at: Path) -> None:
        with (at / "samples.bin").open("wb") as file:
            left_out.extend(_write_samples(source, _progress(len(source), task_name), file, index))
        if not index.lengths:
            raise UserError(
                f"Task {task_name!r}: none of its {len(source)} records can be used, the last: {left_out[-1]}"
            )
        np.savez(at / "index.npz", allow_pickle=False, **index.arrays())
        meta = {
            "version": VERSION,
            "task": task_name,
            "sample_rate": rate,
            "examples": len(index.lengths),
            "text_only": getattr(source, "text_only", False),
            "sized": "lengths" in index.stated,
            "left_out": left_out,
        }
        (at / "meta.json").write_text(json.dumps(meta, indent=1))

    try:
        write_folder(folder, write)
    except OSError as error:
        raise UserError(
            f"Cannot write {str(folder)!r} ({error.strerror}); check the folder and the free space."
        ) from error
    return PackReport(folder, len(index.lengths), sum(index.lengths) / rate, left_out)


def _write_samples(source: Source, numbers: Iterable[int], file: BinaryIO, index: _Index) -> list[str]:
    left_out = []
    for i in numbers:
        try:
            example = source[i]
        except BadExample as error:
            left_out.append(str(error))
            continue
        file.write(np.ascontiguousarray(example.samples, "<i2").tobytes())
        index.add(i, example)
    return left_out


def _progress(size: int, task_name: str) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(range(size), desc=f"packing {task_name}", unit="example", disable=None)  # None: terminals only


class PackedSource:
    """A packed task as a source. What does not fit the batch's limits is left out and counted.

    Raises UserError for a folder that is missing, half copied, or packed at another sample rate.
    """

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
                self.rejected[reason] = [self._string("id", int(i)) for i in misfits]
                usable[misfits] = False
        return np.flatnonzero(usable)

    def _stated(self, name: str, measured: np.ndarray) -> np.ndarray:
        return self._index.get(f"stated_{name}", measured)[self._usable].astype(np.int64)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included."""
        vocabulary = make_vocabulary(self._data.vocabulary)
        texts = (self._string("text", int(i)) for i in self._usable)
        return np.asarray([len(encode_target(vocabulary, text)[0]) for text in texts], np.int64)

    def _string(self, name: str, i: int) -> str:
        return self._cut(name, i).tobytes().decode()

    def _cut(self, name: str, i: int) -> np.ndarray:
        starts = self._index[f"{name}_starts"]
        return self._index[name][starts[i] : starts[i + 1]]

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, i: int) -> Example:
        i = int(self._usable[i])
        return Example(
            samples=self._samples[self._starts[i] : self._starts[i + 1]],
            prompt_samples=int(self._index["prompt_samples"][i]),
            text=self._string("text", i),
            id=self._string("id", i),
            speaker=self._string("speaker", i),
            scored_words=int(self._index["scored_words"][i]),
            word_ends=tuple(self._cut("word_ends", i).tolist()),
        )
