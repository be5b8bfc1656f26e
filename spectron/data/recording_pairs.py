"""Pairs of recordings of which one is right: the layouts of sWUGGY, sBLIMP, spoken StoryCloze and SALMon, or JSONL."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from spectron.audio.finding import find_files, recordings_in, warn_passed_over
from spectron.types import UserError
from spectron.utils.text_files import kind_of, read_objects, read_table

LAYOUTS = "a JSONL of good and bad, a folder with gold.csv, one of *_correct.wav, or SALMon's folders of sample_N_*.wav"
RIGHT, WRONG = "_correct", "_incorrect"  # ends of the stems of spoken StoryCloze


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

    Recordings in folders may be of every format that can be read.

    Raises UserError when none is found, or a recording is missing.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--pairs {str(path)!r} is not there; give {LAYOUTS}.")
    if path.is_file():
        pairs = list(_gold(path) if kind_of(path) == ".csv" else _jsonl(path))
    elif gold := [name for name in (path / "gold.csv", path.parent / "gold.csv") if name.is_file()]:
        pairs = list(_gold(gold[0], path))
    else:
        found = find_files(path)
        warn_passed_over(found.unreadable)
        pairs = [*_named(path, sorted(found.audio)), *_salmon(sorted(found.audio))]
    if not pairs:
        raise UserError(f"--pairs {str(path)!r} holds no pairs; give {LAYOUTS}.")
    for pair in pairs:
        for recording in (pair.good, pair.bad):
            if not os.path.isfile(recording):
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
    present = recordings_in(folder)
    groups: dict[tuple[str, str, str], dict[bool, list[Path]]] = defaultdict(lambda: {True: [], False: []})
    rows = read_table(path)
    names = next(rows, (0, None))[1] or {}
    lacking = [name for name in ("id", "filename", "correct") if name not in names]
    if lacking:
        raise UserError(f"{str(path)!r} has no column {lacking[0]!r}; it needs id, filename and correct.")
    for number, row in rows:
        if row is None or not (row["id"] and row["filename"] and row["correct"] in ("0", "1")):
            wanted = "id, filename and correct (0 or 1), and as many cells as the header"
            raise UserError(f"{str(path)!r}, line {number}: a row needs {wanted}; correct it.")
        stem = row["filename"].removesuffix(".wav")
        recording = folder / f"{stem}.wav"
        if not os.path.isfile(recording):
            recording = present.get(stem) or present.get(Path(stem).stem) or recording
        key = (row["id"], row.get("voice") or "", row.get("type") or "")
        groups[key][row["correct"] == "1"].append(recording)
    for (name, voice, group), recordings in groups.items():
        for good in recordings[True]:
            for bad in recordings[False]:
                yield Pair("/".join(filter(None, (name, voice, bad.stem))), group, good, bad, name)


def _named(folder: Path, audio: Sequence[Path]) -> Iterator[Pair]:
    for good in (path for path in audio if path.stem.endswith(RIGHT)):
        stem = good.stem.removesuffix(RIGHT)
        group = str(good.parent.relative_to(folder)).strip(".")
        wrong = good.with_name(f"{stem}{WRONG}{good.suffix}")
        wrong = wrong if wrong.exists() else recordings_in(good.parent).get(wrong.stem, wrong)
        yield Pair("/".join(filter(None, (group, stem))), group, good, wrong)


def _salmon(audio: Sequence[Path]) -> Iterator[Pair]:
    parts: dict[Path, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in audio:
        if match := re.match(r"sample_(\d+)_", path.name):
            parts[path.parent][int(match[1])].append(path)
    for part, samples in sorted(parts.items()):
        for number, recordings in sorted(samples.items()):
            if len(recordings) < 2:
                raise UserError(f"{str(recordings[0])!r} has no second recording; SALMon's samples are pairs.")
            right, wrong, *_ = recordings
            yield Pair(f"{part.name}/{number}", part.name, right, wrong)
