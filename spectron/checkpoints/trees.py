"""Parameter trees by path: splitting, merging, comparing shapes, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spectron.types import Params, UserError


def path_of(keys: Any) -> str:
    """The key path of a leaf as text: "lm/layers/block/attention/query/kernel"."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def is_below(path: str, prefix: str) -> bool:
    """Whether a path is `prefix` or lies below it: "lm/head" is below "lm", "lm_lora" is not."""
    return path == prefix or path.startswith(prefix + "/")


def select(tree: Params, keep: Callable[[str], bool], prefix: str = "") -> Params:
    """The leaves of nested dicts whose path `keep` accepts; dicts that become empty are left out."""
    kept = {}
    for name, child in tree.items():
        path = f"{prefix}{name}"
        if isinstance(child, Mapping):
            if below := select(child, keep, f"{path}/"):
                kept[name] = below
        elif keep(path):
            kept[name] = child
    return kept


def merge(first: Params, second: Params) -> Params:
    """Nested dicts with the leaves of both, which share none."""
    merged = dict(first)
    for name, child in second.items():
        merged[name] = merge(merged[name], child) if name in merged else child
    return merged


def paths_of(tree: Params) -> set[str]:
    """The paths of all leaves of nested dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=has_shape)
    return {path_of(keys) for keys, _ in leaves}


def fingerprint(tree: Params) -> str:
    """SHA-256 over the paths, types, shapes and values of arrays that this process can read."""
    digest = hashlib.sha256()
    leaves = {path_of(keys): np.asarray(leaf) for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    for path in sorted(leaves):
        array = np.ascontiguousarray(leaves[path])
        digest.update(f"{path}\0{array.dtype.name}\0{array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def has_shape(x: Any) -> bool:
    """Whether a node is an array, or the description of one."""
    return hasattr(x, "shape")


def compare(stored: Any, wanted: Any, what: str) -> None:
    """Raise UserError, which begins with `what`, naming the first path whose shape differs between two trees."""
    have, want = _shapes(stored), _shapes(wanted)
    for path in [*want, *have]:
        if have.get(path) != want.get(path):
            raise UserError(
                f"{what} is of another model: {path!r} is {_text(have.get(path))} there and {_text(want.get(path))} "
                f"in this config; use the config it was trained with or another folder."
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path → shape; keys of dicts, names of tuples' fields and positions are all written as text."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=has_shape)
    return {path_of(keys): tuple(leaf.shape) for keys, leaf in leaves if has_shape(leaf)}


def _text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a scalar"
