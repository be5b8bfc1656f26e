"""Folders and files that appear whole or not at all, and the place for derived data."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from spectron.types import UserError
from spectron.utils.disk import disk_full


def cache_folder() -> Path:
    """Where derived data is kept: $XDG_CACHE_HOME/spectron or ~/.cache/spectron."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectron"


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder under a temporary name, then rename: readers see all or nothing. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(temporary)
        temporary.chmod(0o755)  # mkdtemp's own is for the owner alone
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else a process that was quicker wrote the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_local(path: str | Path, what: str) -> None:
    """Raise UserError for an address with a scheme, which would be taken for a folder of that name."""
    if re.match("[a-z0-9]{2,}:/", str(path)):  # a Path has one slash left
        raise UserError(f"{what} {str(path)!r} is an address; give a path of this machine (a bucket can be mounted).")


def check_new(folder: Path) -> None:
    """Raise UserError where a folder of this name cannot be new: it holds something, or is a file, or an address."""
    check_local(folder, "--out")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} is not empty; give --out the name of a new folder.")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{str(folder)!r} is a file; give --out the name of a new folder.")


def check_out(out: str | Path, flag: str = "--out") -> None:
    """Raise UserError where a folder cannot be made or written; makes nothing. flag: who named it."""
    check_local(out, flag)
    place = Path(out).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "is no folder" if not place.is_dir() else "cannot be written"
        raise UserError(f"{flag} {str(out)!r}: {str(place)!r} {why}; choose another folder.")


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to fill, renamed to it when the block ends well and else removed.

    Raises UserError when the target is not new, cannot be written, or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.new")
    try:
        check_new(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        temporary.rename(target)  # onto nothing, or an empty folder
    except Exception as error:
        if disk_full(error):
            raise UserError(
                f"The disk is full: nothing was written to {str(target)!r}; free some space and run the same command "
                f"again."
            ) from error
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or "the write failed"
        raise UserError(f"Cannot write {str(target)!r} ({reason}); give --out a folder you may write to.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError when the place cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises UserError when the place cannot be written."""
    temporary = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = error.strerror or "the write failed"
        raise UserError(f"Cannot write {str(path)!r} ({reason}); check the folder and the free space.") from error


def part_of(path: Path) -> Path:
    """A name of this writer's own beside `path`, for the content until it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


def remove_parts(folder: Path) -> None:
    """Delete what killed writers left in a folder. Nobody may be writing there."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)
