"""The inputs of `spectron generate`: files, folders, patterns and manifests → recordings with names."""

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
    """A recording. name: the path of its answer's files in the output folder, without suffix."""

    name: str
    path: Path


def find_inputs(given: Sequence[str], out: str | Path) -> list[Input]:
    """Recordings, sorted by name.

    given: audio files, folders (all audio in them, at any depth), patterns with *, ? or **, and manifests (.jsonl, with
    the path "audio" on every line, relative to the manifest's folder, and optionally an "id"). A file is named by its
    stem, a file found in a folder or by a pattern by its path from the folder or from the pattern's fixed part. Hidden
    files and files in `out` are left out. Raises UserError if an input has no audio, two recordings would have the
    same name, or an answer would overwrite a recording.
    """
    recordings: dict[str, Path] = {}
    real = functools.cache(lambda folder: Path(os.path.realpath(folder)))  # resolve() would fail on cyclic links
    for each in given:
        expanded = list(_expand(each, Path(out), real))
        if not expanded:
            raise UserError(f"Input {each!r} has no audio ({', '.join(AUDIO_SUFFIXES)}); check the path.")
        for name, path in expanded:
            if recordings.setdefault(name, path) != path:
                raise UserError(
                    f"Inputs {str(recordings[name])!r} and {str(path)!r} would both be written as {name!r}; "
                    f"rename one or run them into two folders."
                )
    place = real(Path(out))
    for path in recordings.values():
        entry = real(path.parent) / path.name
        inside = entry.suffix == ".wav" and entry.is_relative_to(place)
        if inside and entry.relative_to(place).with_suffix("").as_posix() in recordings:
            raise UserError(f"An answer would take the place of {str(path)!r}; choose another --out than {str(out)!r}.")
    return [Input(name, recordings[name]) for name in sorted(recordings)]


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
    else:  # if it is not audio, reading it fails later
        yield Input(path.stem, path)


def _walk(root: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:  # os.walk skips unreadable folders silently by default
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
        # A broken link counts: reading it fails later, and the failure is listed.
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
