"""Weights as decoding reads them fastest: every layer by itself, kernels turned, in the type they are used in.

A step of decoding multiplies a handful of rows by every weight there is, so that memory decides how long it takes. On
a CPU of four cores XLA reads a layer that it slices out of a stack at 5 GB/s, a kernel [in, out] at 11 to 22 and a
kernel [out, in] times columns at 31 to 39, which is as fast as it sums them up. Kernels of 16 MB, that is: each product
costs some 80 µs besides (those of 2 MB: 16 GB/s). So those that multiply the same are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectron.types import Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turned:
    """A kernel [out, in]."""

    values: Any  # float [out, in], or what stands for it in a tree of shapes

    def __rmatmul__(self, x: Float[Array, "N I"]) -> Float[Array, "N O"]:
        """x times the kernel."""
        # Without the barriers the compiler takes the two turns out again, and with them the fast product.
        columns = jax.lax.optimization_barrier(x.T)
        return jax.lax.optimization_barrier(self.values @ columns).T


JOINED = (("query", "key", "value"), ("gate", "up"))


def joined_name(names: Iterable[str]) -> str:
    """What the kernel is called that kernels of these names make together."""
    return "+".join(names)


def for_decoding(params: Params, dtype: Any) -> Params:
    """A Spectron's parameters, scanned or not → those of one with `unrolled`; `dtype` is the model's compute_dtype."""
    out = {part: _turn(tree, dtype) for part, tree in params.items() if part not in ("encoder", "lm")}
    # The encoder multiplies hundreds of rows at once, where the order does not matter.
    encoder = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(x, dtype if path[-1].key == "kernel" else None), params["encoder"]
    )
    lm = {name: tree for name, tree in params["lm"].items() if name != "layers"}
    if "layers" in params["lm"]:
        stacked = params["lm"]["layers"]["block"]
        count = jax.tree.leaves(stacked)[0].shape[0]
        lm |= {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)}
    return {**out, "encoder": encoder, "lm": _turn(lm, dtype)}


def _turn(tree: Params, dtype: Any) -> Params:
    out: dict[str, Any] = {}
    for names in JOINED:
        if all(set(tree.get(name, ())) == {"kernel"} for name in names):
            out[joined_name(names)] = _turned([tree[name]["kernel"] for name in names], dtype)
            tree = {name: leaf for name, leaf in tree.items() if name not in names}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            out[name] = _turn(leaf, dtype)
        elif name == "kernel":
            out[name] = _turned([leaf], dtype)
        elif name == "embedding":  # [V, D]: the head's kernel too, where they are tied
            out[name] = Turned(jnp.asarray(leaf, dtype))
        else:
            out[name] = jnp.asarray(leaf)
    return out


def _turned(kernels: Sequence[Any], dtype: Any) -> Turned:
    """Kernels [in, out], one below the other."""
    # An export traces this; on the host, turning costs no second copy on the device.
    library = jnp if isinstance(kernels[0], jax.Array) else np
    return Turned(jnp.asarray(library.concatenate([library.asarray(kernel).T for kernel in kernels]), dtype))
