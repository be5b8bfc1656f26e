"""Atomic writes of files and folders, checks of paths that a user gave, and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from spectron.errors import UserError
from spectron.utils.disk import disk_full

SUM_BYTES = 32  # of SHA-256


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder under a temporary name, then rename it: readers see the whole folder or none. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it readable by its owner only
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # another process may have written the same folder first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_local(path: str | Path, what: str) -> None:
    """Raise UserError for an address such as gs://…, which would otherwise be used as a local folder of that name."""
    if re.match("[a-z0-9]{2,}:/", str(path)):  # Path collapses the two slashes to one
        raise UserError(f"{what} {str(path)!r} is an address; give a path of this machine (a bucket can be mounted).")


def check_new(folder: Path) -> None:
    """Raise UserError unless `folder` can be created: it must not be an address, a file, or a folder with content."""
    check_out(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{str(folder)!r} is not empty; give --out the name of a new folder.")


def check_out(out: str | Path, flag: str = "--out") -> None:
    """Raise UserError if a folder cannot be created or written to. flag: the option that named it.

    Only an attempt shows it (in /proc, on a full disk, or for root, permissions say nothing): a temporary folder is
    made in the nearest folder that exists, and removed.
    """
    check_local(out, flag)
    if not str(out) or "\0" in str(out):
        raise UserError(f"{flag} {str(out)!r} is not the name of a folder; give one.")
    place, missing = Path(out).absolute(), []
    try:
        while not place.exists():
            if place.is_symlink():
                raise UserError(f"{flag} {str(out)!r}: {str(place)!r} is a broken link; remove it or choose another.")
            missing.append(place.name)
            place = place.parent
        if not place.is_dir():
            raise UserError(f"{flag} {str(out)!r}: {str(place)!r} is not a folder; choose another folder.")
        for name in missing:
            (place / name).exists()  # raises OSError for a name that is too long
        Path(tempfile.mkdtemp(prefix=".", dir=place)).rmdir()
    except OSError as error:
        shown = str(out) if len(str(out)) <= 200 else f"{str(out)[:200]}…"
        reason = error.strerror or "the write failed"
        raise UserError(f"{flag} {shown!r} cannot be written ({reason}); choose another folder.") from error


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to fill; it is renamed to `target` when the block succeeds, and removed when it fails.

    Raises UserError when the target exists, cannot be written, or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.new")
    try:
        check_new(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        temporary.rename(target)  # the target does not exist or is an empty folder
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
    """Write a file atomically. Raises UserError when it cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises UserError when it cannot be written."""
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


def write_sealed(path: Path, content: bytes) -> None:
    """Write content after its SHA-256, atomically. Raises UserError when it cannot be written."""
    write_bytes(path, hashlib.sha256(content).digest() + content)


def read_sealed(path: Path) -> bytes | None:
    """What write_sealed wrote; None if the file is missing or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[SUM_BYTES:]
    return content if hashlib.sha256(content).digest() == stored[:SUM_BYTES] else None


def part_of(path: Path) -> Path:
    """A unique temporary name in the same folder as `path`, for content that is not complete yet."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


def remove_parts(folder: Path) -> None:
    """Delete the temporary files that killed writers left in a folder. No writer may be running."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def checksum_of(paths: Iterable[Path]) -> str:
    """SHA-256 over files, and over the files in folders, by relative name and content; hidden files are left out."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if file != path else file.name
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            with file.open("rb") as content:
                digest.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
