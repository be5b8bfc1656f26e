"""Where this project keeps what it can make again, and what it sets for the libraries that it uses."""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder for derived data: $XDG_CACHE_HOME/spectron or ~/.cache/spectron.

    Without a home (no HOME, and a user whom the system does not know), a folder of this user among temporary files.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "spectron"
    try:
        return Path.home() / ".cache" / "spectron"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"spectron-{os.getuid()}"


def load_librosa() -> Any:
    """The module librosa, which compiles functions when it is imported and fails where it cannot store them."""
    if "NUMBA_CACHE_DIR" not in os.environ:
        folder = cache_folder() / "numba"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            folder = Path(tempfile.mkdtemp(prefix="spectron-numba-"))
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return importlib.import_module("librosa")
