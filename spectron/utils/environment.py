"""Where this project keeps what it can make again, and what it sets for the libraries that it uses."""

from __future__ import annotations

import contextlib
import importlib
import os
import pwd
import tempfile
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder for derived data: $XDG_CACHE_HOME/spectron or ~/.cache/spectron."""
    ensure_home()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectron"


def ensure_home() -> None:
    """Set HOME to a folder of this user among temporary files, where it is not set and the system does not know the
    user (a container that runs under a number alone). JAX and others fail without a home."""
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"home-of-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(folder)


def known_user() -> bool:
    """Whether the system knows this process's user by name."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


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
