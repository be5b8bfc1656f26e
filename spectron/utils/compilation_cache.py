"""JAX's persistent compilation cache, one for every command and the Python API."""

from __future__ import annotations

import jax

from spectron.utils.files import cache_folder

# Ours. Most programs of a small model compile in tenths of a second, and one answer needs dozens of them.
SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.05,
    "jax_compilation_cache_max_size": 4 << 30,  # bytes; the programs not used for longest are deleted
}


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, for all later processes.

    A user's own setting wins: JAX_COMPILATION_CACHE_DIR, or jax_compilation_cache_dir of jax.config.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        for name, value in SETTINGS.items():
            jax.config.update(name, value)
