"""Writing packed tasks: examples in flat files that numpy alone reads (see packed.py)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence, Sized
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from spectron.config import Experiment
from spectron.data.example import EXAMPLE_FIELDS, BadExample, Source
from spectron.data.fields import encode_text
from spectron.data.fitting import check_left_out
from spectron.data.packed import VERSION
from spectron.data.sources import source_of
from spectron.data.unknown import check_known
from spectron.data.vocabulary import Vocabulary, make_vocabulary
from spectron.types import Example, UserError
from spectron.utils.files import write_folder


class PackReport(NamedTuple):
    """What was packed. left_out: one line for each record that could not be used."""

    folder: Path
    examples: int
    seconds: float
    left_out: list[str]


class _Index:
    """What is known of each example besides its samples."""

    def __init__(self, source: Source, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # What the source stated without reading: it keeps the records in the same buckets as before packing.
        known = {"lengths": source.lengths, "prompts": source.prompts}
        self._known: dict[str, np.ndarray] = {name: array for name, array in known.items() if array is not None}
        self.stated: dict[str, list[int]] = {name: [] for name in self._known}
        self.lengths: list[int] = []
        self.values: dict[str, list] = {name: [] for name in EXAMPLE_FIELDS}

    def add(self, number: int, example: Example) -> None:
        for name, stated in self.stated.items():
            stated.append(int(self._known[name][number]))
        self.lengths.append(len(example.samples))
        text = encode_text(example, self._vocabulary)
        example = example._replace(
            token_ids=tuple(text.ids), scored_tokens=text.scored, token_ends=tuple(map(int, text.ends))
        )
        for name, values in self.values.items():
            values.append(getattr(example, name))

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"starts": np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])}
        arrays |= {f"stated_{name}": np.asarray(values, np.int64) for name, values in self.stated.items()}
        for name, values in self.values.items():
            if EXAMPLE_FIELDS[name] is int:
                arrays[name] = np.asarray(values, np.int32)
                continue
            rows = [value.encode() for value in values] if EXAMPLE_FIELDS[name] is str else values
            arrays[f"{name}_starts"] = _starts(rows)
            if EXAMPLE_FIELDS[name] is str:
                arrays[name] = np.frombuffer(b"".join(rows), np.uint8)
            else:
                arrays[name] = np.asarray([number for row in rows for number in row], np.int32)
        return arrays


def _starts(values: Sequence[Sized]) -> np.ndarray:
    """Where each of the values starts when they are laid end to end, and where the last one ends."""
    return np.concatenate([[0], np.cumsum([len(v) for v in values], dtype=np.int64)])


def pack(experiment: Experiment, task_name: str, out: str | Path) -> PackReport:
    """Write a task's examples to OUT/TASK, whole or not at all. UserError if it is there or nothing is usable."""
    folder = Path(out) / task_name
    if experiment.data.packed:
        raise UserError("data.packed is set, so the task is packed already; clear it to pack from the data.")
    if folder.exists():
        raise UserError(f"{str(folder)!r} exists already; remove it or choose another folder.")
    source = source_of(experiment, task_name)
    check_left_out(task_name, source, experiment.data)
    check_known(task_name, source, experiment.data.vocabulary)
    vocabulary = make_vocabulary(experiment.data.vocabulary)
    index, left_out = _Index(source, vocabulary), []
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
            "text_only": source.text_only,
            "sized": "lengths" in index.stated,
            "vocabulary": vocabulary.checksum(),
            "vocabulary_size": vocabulary.size,
            "normaliser": next(task.normaliser for task in experiment.data.tasks if task.name == task_name),
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
