"""Checksums of a checkpoint's files, and the sentence for one that cannot be read.

Every process of a job writes checksums of its share of the files after a checkpoint is finished, and checks the same
share before training continues; inference checks the items that it reads. A file that no list names (the job was killed
before its process had written one) is not checked.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectron.checkpoints.export_format import checksum
from spectron.checkpoints.steps import steps_in
from spectron.parallel.devices import no_device
from spectron.types import UserError
from spectron.utils.disk import DISK_LOGS
from spectron.utils.files import write_bytes

LISTS = "checksums-*-of-*.json"  # {file: SHA-256}, one list a process


def write_checksums(folder: Path, index: int = 0, count: int = 1) -> None:
    """Write a finished checkpoint's checksums: of every count-th of its files, from number `index` on.

    Nothing happens if the checkpoint is deleted meanwhile.
    """
    names = _names(folder)[index::count]
    with contextlib.suppress(FileNotFoundError):
        sums = dict(zip(names, _in_threads(folder, names), strict=True))
        if folder.is_dir():
            write_bytes(folder / f"checksums-{index:05d}-of-{count:05d}.json", json.dumps(sums, indent=1).encode())


def check(folder: Path, items: Sequence[str], index: int = 0, count: int = 1) -> None:
    """Compare every count-th file of some items with its checksum. Raises UserError naming the first that differs."""
    expected: dict[str, str] = {}
    for path in sorted(folder.glob(LISTS)):
        with readable(folder, path.name):
            expected |= json.loads(path.read_text(encoding="utf-8"))
    names = sorted(name for name in expected if name.split("/")[0] in items)[index::count]
    for name in names:
        if not (folder / name).is_file():
            raise damaged(folder, name, "is missing")
    with readable(folder):
        found = _in_threads(folder, names)
    for name, digest in zip(names, found, strict=True):
        if digest != expected[name]:
            raise damaged(folder, name, "has changed since it was written")


def damaged(folder: Path, name: str, what: str) -> UserError:
    """The error for a checkpoint of which a file is proved to be damaged."""
    others = [str(folder.parent / str(step)) for step in steps_in(folder.parent) if str(step) != folder.name]
    instead = f"use {others[-1]!r} instead" if others else "train again"
    return UserError(
        f"Checkpoint {str(folder)!r} is damaged: its file {name!r} {what}; copy it again from where it is whole, or "
        f"{instead}."
    )


@contextlib.contextmanager
def readable(folder: Path, name: str = "") -> Iterator[None]:
    """Turn any error of reading a checkpoint into a UserError that says what is known. name: the file that is read.

    Only a file that is missing or holds no JSON proves that the checkpoint is at fault.
    """
    DISK_LOGS.install()
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"Checkpoint {str(folder)!r} does not fit into this machine's memory.") from error
    except Exception as error:
        reason = str(error).split("\n", maxsplit=1)[0][:200] or type(error).__name__
        if device := no_device():
            raise device from error
        if denied := _denied(folder):
            raise UserError(
                f"Checkpoint {str(folder)!r} may not be read: {denied!r} belongs to another user or is closed to you; "
                f"ask its owner for permission."
            ) from error
        if name and isinstance(error, (ValueError, KeyError, TypeError)):
            raise damaged(folder, name, f"is not as it was written ({reason})") from error
        if isinstance(error, FileNotFoundError):
            missing = str(Path(error.filename or name).name)
            raise damaged(folder, missing, "is missing") from error
        if "RESOURCE_EXHAUSTED" in reason or "Out of memory" in reason:
            raise UserError(f"Checkpoint {str(folder)!r} does not fit into the device's memory: {reason}") from error
        raise UserError(f"Checkpoint {str(folder)!r} cannot be read: {reason}") from error


def _denied(folder: Path) -> str:
    """The first file or folder of a checkpoint that may not be read, "" if there is none."""
    try:
        every = [folder, *sorted(folder.rglob("*"))]
        return next((str(p) for p in every if not os.access(p, os.R_OK | (os.X_OK if p.is_dir() else 0))), "")
    except PermissionError as error:
        return str(error.filename or folder)


def _names(folder: Path) -> list[str]:
    """The files of a checkpoint, relative, without its checksums."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.match(LISTS))
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _in_threads(folder: Path, names: Sequence[str]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return list(pool.map(checksum, [folder / name for name in names]))
