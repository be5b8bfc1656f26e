"""Pairs of recordings of which one is right: the layouts of sWUGGY, sBLIMP, spoken StoryCloze and SALMon, or JSONL."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from spectron.types import UserError
from spectron.utils.jsonl import read_objects, read_text

LAYOUTS = "a JSONL of good and bad, a folder with gold.csv, one of *_correct.wav, or SALMon's folders of sample_N_*.wav"


class Pair(NamedTuple):
    """A right and a wrong recording, and what kind of task they are of. Pairs of one item count as one."""

    id: str
    group: str
    good: Path
    bad: Path
    item: str = ""  # its own if it is empty


def read_pairs(path: str | Path) -> list[Pair]:
    """The pairs under a path, in a fixed order. The layout is recognised:

    - JSONL: {"good": file, "bad": file, "id"?, "group"?, "item"?} a line, files relative to it.
    - gold.csv next to (or in the folder above) the recordings (ZeroSpeech 2021: sWUGGY, sBLIMP): rows of one `id` and
      `voice` with `correct` 1 and 0 are crossed; `type`, if there is one, is the group; `id` is the item.
    - STEM_correct.wav and STEM_incorrect.wav (spoken StoryCloze).
    - PART/sample_N_….wav, of each N the first by name is the right one (SALMon); PART is the group.

    Raises UserError when none is found, or a recording is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--pairs {str(path)!r} is not there; give {LAYOUTS}.")
    if path.is_file():
        pairs = list(_gold(path) if path.suffix == ".csv" else _jsonl(path))
    elif gold := [name for name in (path / "gold.csv", path.parent / "gold.csv") if name.is_file()]:
        pairs = list(_gold(gold[0], path))
    else:
        pairs = [*_named(path), *_salmon(path)]
    if not pairs:
        raise UserError(f"--pairs {str(path)!r} holds no pairs; give {LAYOUTS}.")
    for pair in pairs:
        for recording in (pair.good, pair.bad):
            if not recording.is_file():
                raise UserError(f"Pair {pair.id!r}: recording {str(recording)!r} is not there.")
    return pairs


def _jsonl(path: Path) -> Iterator[Pair]:
    for number, place, row in read_objects(path):
        try:
            good, bad = path.parent / row["good"], path.parent / row["bad"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{place} is no pair; write {{'good': FILE, 'bad': FILE}}.") from error
        yield Pair(str(row.get("id", number)), str(row.get("group", "")), good, bad, str(row.get("item", "")))


def _gold(path: Path, folder: Path | None = None) -> Iterator[Pair]:
    folder = folder or path.parent
    groups: dict[tuple[str, str, str], dict[bool, list[Path]]] = defaultdict(lambda: {True: [], False: []})
    table = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        lacking = [name for name in ("id", "filename", "correct") if name not in (table.fieldnames or ())]
        if lacking:
            raise UserError(f"{str(path)!r} has no column {lacking[0]!r}; it needs id, filename and correct.")
        for row in table:
            if not (row["id"] and row["filename"] and row["correct"] in ("0", "1")):
                wanted = "id, filename and correct (0 or 1)"
                raise UserError(f"{str(path)!r}, line {table.line_num}: a row needs {wanted}; mend it.")
            recording = folder / f"{row['filename'].removesuffix('.wav')}.wav"
            key = (row["id"], row.get("voice") or "", row.get("type") or "")
            groups[key][row["correct"] == "1"].append(recording)
    except csv.Error as error:
        raise UserError(f"{str(path)!r}, line {table.line_num}, is no CSV ({error}); mend it.") from error
    for (name, voice, group), recordings in groups.items():
        for good in recordings[True]:
            for bad in recordings[False]:
                yield Pair("/".join(filter(None, (name, voice, bad.stem))), group, good, bad, name)


def _named(folder: Path) -> Iterator[Pair]:
    for good in sorted(folder.rglob("*_correct.wav")):
        stem = good.name.removesuffix("_correct.wav")
        group = str(good.parent.relative_to(folder)).strip(".")
        yield Pair("/".join(filter(None, (group, stem))), group, good, good.with_name(f"{stem}_incorrect.wav"))


def _salmon(folder: Path) -> Iterator[Pair]:
    for part in sorted({path.parent for path in folder.rglob("sample_*_*.wav")}):
        samples: dict[int, list[Path]] = defaultdict(list)
        for path in sorted(part.glob("sample_*_*.wav")):
            if match := re.match(r"sample_(\d+)_", path.name):
                samples[int(match[1])].append(path)
        for number, recordings in sorted(samples.items()):
            if len(recordings) < 2:
                raise UserError(f"{str(recordings[0])!r} has no second recording; SALMon's samples are pairs.")
            right, wrong, *_ = recordings
            yield Pair(f"{part.name}/{number}", part.name, right, wrong)
