"""The inputs of `spectron generate`: files, folders, patterns and manifests → recordings with names."""

from __future__ import annotations

import fnmatch
import functools
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from spectron.audio.finding import COMMON, Found, find_files, passed_over, sort_files, warn_passed_over
from spectron.types import UserError
from spectron.utils.files import check_local
from spectron.utils.text_files import kind_of, read_objects


class Input(NamedTuple):
    """A recording. name: the path of its answer's files in the output folder, without suffix."""

    name: str
    path: Path


def find_inputs(given: Sequence[str], out: str | Path) -> list[Input]:
    """Recordings, sorted by name.

    given: audio files, folders (all audio in them, at any depth, linked folders too), patterns with *, ? or **, and
    manifests (.jsonl, with the path "audio" on every line, relative to the manifest's folder, and optionally an "id").
    A file is named by its stem, a file found in a folder or by a pattern by its path from the folder or from the
    pattern's fixed part. Hidden files and files in `out` are left out; files in formats that cannot be read are counted
    in one line of the log. Raises UserError if an input has no audio, two recordings would have the same name, or an
    answer would overwrite a recording.
    """
    recordings: dict[str, Path] = {}
    unreadable: dict[Path, None] = {}
    real = functools.cache(lambda folder: Path(os.path.realpath(folder)))  # resolve() would fail on cyclic links
    for each in given:
        expanded, skipped = _expand(each, Path(out), real)
        unreadable |= dict.fromkeys(skipped)
        if not expanded:
            reason = passed_over(skipped) or "check the path."
            raise UserError(f"Input {each!r} has no audio ({COMMON}); {reason}")
        for name, path in expanded:
            if recordings.setdefault(name, path) != path:
                raise UserError(
                    f"Inputs {str(recordings[name])!r} and {str(path)!r} would both be written as {name!r}; "
                    f"rename one or run them into two folders."
                )
    warn_passed_over(list(unreadable))
    place = real(Path(out))
    for path in recordings.values():
        entry = real(path.parent) / path.name
        inside = entry.suffix == ".wav" and entry.is_relative_to(place)
        if inside and entry.relative_to(place).with_suffix("").as_posix() in recordings:
            raise UserError(f"An answer would take the place of {str(path)!r}; choose another --out than {str(out)!r}.")
    return [Input(name, recordings[name]) for name in sorted(recordings)]


def _expand(given: str, out: Path, real: Callable[[Path], Path]) -> tuple[list[Input], list[Path]]:
    """The recordings of one input, and the files passed over."""
    path = Path(given)
    if not given:
        raise UserError("An input is the empty string; name a recording, a folder, a pattern or a manifest.")
    check_local(given, "input")
    if path.is_dir():
        return _below(path, find_files(path), out, real)
    if any(mark in given for mark in "*?[") and not path.exists():
        fixed = path.parts[: next(i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?["))]
        root = Path(*fixed)
        return _below(root, _matching(root, path.parts[len(fixed) :]), out, real)
    if kind_of(path) == ".jsonl":
        return list(_manifest(path)), []
    return [Input(path.stem, path)], []  # if it is not audio, reading it fails later


def _matching(root: Path, pattern: Sequence[str]) -> Found:
    """The files below a folder whose path from there matches a pattern; ** stands for any number of folders."""
    if "**" not in pattern:
        return sort_files(sorted(root / name for name in glob.iglob(os.path.join(*pattern), root_dir=root)))
    if not root.is_dir():
        return Found()
    found = find_files(root)  # not glob, which follows a ring of links until a path becomes too long

    def chosen(paths: Sequence[Path]) -> list[Path]:
        return [path for path in paths if _matches(path.relative_to(root).parts, pattern)]

    return Found(chosen(found.audio), chosen(found.unreadable), chosen(found.others))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _below(root: Path, found: Found, out: Path, real: Callable[[Path], Path]) -> tuple[list[Input], list[Path]]:
    place = real(out)
    if place == real(root):
        raise UserError(f"--out {str(out)!r} is the inputs' folder; choose another, or one below it.")

    def wanted(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        return not hidden and not real(path.parent).is_relative_to(place) and not path.is_dir()

    audio = [path for path in found.audio if wanted(path)]
    names = ((path.relative_to(root).with_suffix("").as_posix(), path) for path in sorted(audio))
    return [Input(name, path) for name, path in names], [path for path in found.unreadable if wanted(path)]


def _manifest(path: Path) -> Iterator[Input]:
    for _, place, record in read_objects(path):
        audio = record.get("audio")
        if not isinstance(audio, str) or not audio:
            raise UserError(f'{place} has no "audio"; write the path of a recording.')
        given = record.get("id")
        named = PurePosixPath(str(given)) if given is not None else PurePosixPath(audio)
        parts = [part for part in named.parts if part not in ("/", "..")]  # an answer never leaves OUT
        if not parts:
            raise UserError(f"{place} names its answer {str(named)!r}, which is no name; give it another id.")
        name = PurePosixPath(*parts)
        yield Input((name if given is not None else name.with_suffix("")).as_posix(), path.parent / audio)
