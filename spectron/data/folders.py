"""Folders that appear whole or not at all, and the place for derived data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


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
