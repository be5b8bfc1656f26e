"""JAX's persistent compilation cache, one for every command and the Python API."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path

import jax

from spectron.utils.environment import cache_folder, known_user

log = logging.getLogger(__name__)

MAX_SIZE = "jax_compilation_cache_max_size"
# Ours. Most programs of a small model compile in tenths of a second, and one answer needs dozens of them.
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.05,
    MAX_SIZE: 4 << 30,  # bytes; the programs not used for longest are deleted
}


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, for all later processes; say so in a line if it cannot be written.

    A user's own setting wins: JAX_COMPILATION_CACHE_DIR, or jax_compilation_cache_dir of jax.config.
    """
    folder = cache_folder() / "jax"
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        try:  # jax would warn at every program
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            log.warning("%s cannot be written (%s): programs are compiled at every start.", folder, error.strerror)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        for name, value in SETTINGS.items():
            if name != MAX_SIZE or known_user():  # jax asks for a file's owner by name where the size is limited
                jax.config.update(name, value)
        _mend(folder)


def _mend(folder: Path) -> None:
    """Delete programs whose time of last use is missing: a process was killed while it wrote them.

    jax writes the time last, and with one missing it stores nothing more.
    """
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").is_file():
            with contextlib.suppress(OSError):  # another process may be writing it, or have deleted it
                program.unlink()
