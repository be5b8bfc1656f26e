"""What `spectron generate` is given: files, folders, patterns and manifests → recordings, each with a name."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from spectron.data.recordings import AUDIO_SUFFIXES
from spectron.types import UserError
from spectron.utils.files import check_local
from spectron.utils.jsonl import read_objects


class Input(NamedTuple):
    """A recording. name: where its answer goes below OUT, without suffix; / makes folders."""

    name: str
    path: Path


def find_inputs(given: Sequence[str], out: str | Path) -> list[Input]:
    """Recordings by name, sorted. Each of `given` is an audio file, a folder (all audio below it), a pattern with *, ?
    or ** (written in quotes), or a manifest.jsonl ("audio" on every line, relative to its folder; "id" if it has one).

    A file is named by its stem, what is in a folder or behind a pattern's fixed part by its path from there; hidden
    files and what is in `out` are left out. Raises UserError where there is nothing, two would have one name, or
    answers would take the place of recordings.
    """
    found: dict[str, Path] = {}
    real = functools.cache(lambda folder: Path(os.path.realpath(folder)))  # unlike resolve it survives links in a ring
    for each in given:
        several = list(_expand(each, Path(out), real))
        if not several:
            raise UserError(f"Input {each!r} has no audio ({', '.join(AUDIO_SUFFIXES)}); check the path.")
        for name, path in several:
            if found.setdefault(name, path) != path:
                raise UserError(
                    f"Inputs {str(found[name])!r} and {str(path)!r} would both be written as {name!r}; "
                    f"rename one or run them into two folders."
                )
    place = real(Path(out))
    for path in found.values():
        entry = real(path.parent) / path.name
        inside = entry.suffix == ".wav" and entry.is_relative_to(place)
        if inside and entry.relative_to(place).with_suffix("").as_posix() in found:
            raise UserError(f"An answer would take the place of {str(path)!r}; choose another --out than {str(out)!r}.")
    return [Input(name, found[name]) for name in sorted(found)]


def _expand(given: str, out: Path, real: Callable[[Path], Path]) -> Iterator[Input]:
    path = Path(given)
    if not given:
        raise UserError("An input is the empty string; name a recording, a folder, a pattern or a manifest.")
    check_local(given, "input")
    if path.is_dir():
        yield from _below(path, _walk(path), out, real)
    elif any(mark in given for mark in "*?[") and not path.exists():
        fixed = path.parts[: next(i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?["))]
        yield from _below(Path(*fixed), map(Path, glob.iglob(given, recursive=True)), out, real)
    elif path.suffix == ".jsonl":
        yield from _manifest(path)
    else:  # whether it is audio, reading it will tell
        yield Input(path.stem, path)


def _walk(root: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:  # else what is in there would be missing without a word
        raise error

    for folder, _, names in os.walk(root, onerror=stop):
        yield from (Path(folder, name) for name in names)


def _below(root: Path, paths: Iterator[Path], out: Path, real: Callable[[Path], Path]) -> Iterator[Input]:
    place = real(out)
    if place == real(root):
        raise UserError(f"--out {str(out)!r} is the inputs' folder; choose another, or one below it.")
    for path in sorted(set(paths)):
        name = path.relative_to(root)
        ours = any(part.startswith(".") for part in name.parts) or real(path.parent).is_relative_to(place)
        # A link to nothing counts: reading it will tell.
        if path.suffix.lower() in AUDIO_SUFFIXES and not ours and not path.is_dir():
            yield Input(name.with_suffix("").as_posix(), path)


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
