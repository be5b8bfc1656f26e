"""Traced programs kept on disk. On a CPU, tracing a small model takes longer than answering one prompt with it.

A program is found by everything that decides it: the function, its static arguments, the shapes and types of the
others, the source of this package, the versions of JAX and XLA's flags. Compiled code is kept by JAX's own cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export

import spectron
from spectron.utils.environment import cache_folder
from spectron.utils.files import read_sealed, write_sealed

KEPT = 100  # ours: programs in the folder; those not used for longest are deleted

_folder: Path | None = None  # None: programs are not kept
_ready: dict[tuple[Any, ...], Callable[..., Any]] = {}
_lock = threading.Lock()


def keep_programs(folder: Path | None = None) -> None:
    """Keep the programs that `call` runs from now on; by default in the cache folder."""
    global _folder
    _folder = folder or cache_folder() / "programs"


def call(function: Any, arguments: Sequence[Any], static: dict[str, Any], like: Any) -> Any:
    """function(*arguments, **static), a jitted function; traced once for all processes.

    like: a tree with the structure of the result. Functions of classes from outside this package are traced as usual,
    because what they do may change without a trace in the key; so is everything on accelerators.
    """
    leaves, tree = jax.tree.flatten(tuple(arguments))
    kept = _folder is not None and jax.default_backend() == "cpu" and all(map(_is_ours, static.values()))
    if not kept or any(len(getattr(leaf, "devices", set)() or {0}) > 1 for leaf in leaves):
        return function(*arguments, **static)
    plain = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in leaves]
    shapes = tuple((tuple(jax.numpy.shape(leaf)), str(jax.numpy.result_type(leaf))) for leaf in plain)
    keys = tuple(map(_is_key, leaves))
    known = function.__module__, function.__name__, repr(static), str(tree), shapes, keys
    with _lock:
        run = _ready.get(known)
        if run is None:
            run = _ready[known] = _load_or_trace(function, static, tree, plain, keys, known)
    return jax.tree.unflatten(jax.tree.structure(like), run(*plain))


def _load_or_trace(
    function: Any, static: dict[str, Any], tree: Any, leaves: list[Any], keys: tuple[bool, ...], known: tuple[Any, ...]
) -> Callable[..., Any]:
    """The program as a jitted function of leaves that returns leaves."""
    assert _folder is not None
    path = _folder / hashlib.sha256(repr((known, _surroundings())).encode()).hexdigest()
    with contextlib.suppress(Exception):  # missing, damaged, or of another JAX in disguise: it is traced again
        if (content := read_sealed(path)) is not None:
            os.utime(path)
            return jax.jit(jax.export.deserialize(bytearray(content)).call)

    def flat(*leaves: Any) -> list[Any]:
        given = [jax.random.wrap_key_data(x) if is_key else x for x, is_key in zip(leaves, keys, strict=True)]
        return jax.tree.leaves(function(*jax.tree.unflatten(tree, given), **static))

    exported = jax.export.export(jax.jit(flat))(*leaves)
    with contextlib.suppress(Exception):  # a cache that cannot be written is no reason to stop
        write_sealed(path, bytes(exported.serialize()))
        for old in sorted(_folder.iterdir(), key=lambda each: -each.stat().st_mtime)[KEPT:]:
            old.unlink()
    return jax.jit(exported.call)


@functools.cache
def _surroundings() -> str:
    """What decides a program besides its function and arguments: this package's source, JAX, and its settings."""
    digest = hashlib.sha256()
    package = Path(spectron.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_")))
    return f"{digest.hexdigest()} {jax.__version__} {settings}"


def _is_ours(value: Any) -> bool:
    """Whether a static argument consists of this package's classes and plain values."""
    if dataclasses.is_dataclass(value):
        inside = type(value).__module__.split(".")[0] == "spectron"
        return inside and all(_is_ours(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return all(map(_is_ours, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(jax.numpy.result_type(leaf), jax.dtypes.prng_key)
