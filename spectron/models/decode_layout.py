"""Decode layout: unstacked layers, transposed kernels, in the compute dtype.

A decoding step multiplies a few rows by every weight, so memory bandwidth decides its time. On a CPU of four cores XLA
reads a layer sliced out of a stack at 5 GB/s, a kernel [in, out] at 11 to 22 GB/s, and a kernel [out, in] times columns
at 31 to 39 GB/s, which is as fast as it sums the weights. These figures are for kernels of 16 MB: each product has a
fixed cost of about 80 µs (kernels of 2 MB reach 16 GB/s), so kernels that multiply the same input are concatenated.
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
class TransposedKernel:
    """A kernel stored as [out, in]."""

    values: Any  # float [out, in], or its placeholder in a tree of shapes

    def __rmatmul__(self, x: Float[Array, "N I"]) -> Float[Array, "N O"]:
        """x times the kernel."""
        return self._product(x, None)

    def dot_float32(self, x: Float[Array, "N I"]) -> Float[Array, "N O"]:
        """x times the kernel, accumulated and returned in float32."""
        return self._product(x, jnp.float32)

    def _product(self, x: Array, dtype: Any) -> Array:
        # Without the barriers the compiler cancels the two transpositions, and the fast product with them.
        columns = jax.lax.optimization_barrier(x.T)
        return jax.lax.optimization_barrier(jnp.matmul(self.values, columns, preferred_element_type=dtype)).T


FUSED = (("query", "key", "value"), ("gate", "up"))  # layers of one module that multiply the same input


def fused_name(names: Iterable[str]) -> str:
    """The parameter name of the concatenation of layers of these names."""
    return "+".join(names)


def to_decode_layout(params: Params, dtype: Any) -> Params:
    """Parameters of a Spectron, scanned or not → those of a Spectron with `unrolled`.

    dtype: the model's compute_dtype. Arrays of numpy stay arrays of numpy.
    """
    out = {part: _convert(tree, dtype) for part, tree in params.items() if part not in ("encoder", "lm")}
    # The encoder multiplies hundreds of rows at once, where the layout makes no difference.
    encoder = jax.tree_util.tree_map_with_path(
        lambda path, x: _library(x).asarray(x, dtype if path[-1].key == "kernel" else None), params["encoder"]
    )
    lm = {name: tree for name, tree in params["lm"].items() if name != "layers"}
    if "layers" in params["lm"]:
        stacked = params["lm"]["layers"]["block"]
        count = jax.tree.leaves(stacked)[0].shape[0]
        lm |= {f"layers_{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)}
    return {**out, "encoder": encoder, "lm": _convert(lm, dtype)}


def _convert(tree: Params, dtype: Any) -> Params:
    out: dict[str, Any] = {}
    for names in FUSED:
        if not all(isinstance(tree.get(name), dict) and "kernel" in tree[name] for name in names):
            continue
        fused: dict[str, Any] = {"kernel": _transposed([tree[name]["kernel"] for name in names], dtype)}
        if "bias" in tree[names[0]]:
            biases = [tree[name]["bias"] for name in names]
            fused["bias"] = _library(biases[0]).concatenate(biases)
        out[fused_name(names)] = fused
        tree = {name: leaf for name, leaf in tree.items() if name not in names}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            out[name] = _convert(leaf, dtype)
        elif name == "kernel":
            out[name] = _transposed([leaf], dtype)
        elif name == "embedding":  # [V, D]: with tied embeddings also the kernel of the head
            out[name] = TransposedKernel(_library(leaf).asarray(leaf, dtype))
        else:
            out[name] = leaf
    return out


def _transposed(kernels: Sequence[Any], dtype: Any) -> TransposedKernel:
    """Kernels [in, out] → one [sum of out, in]."""
    library = _library(kernels[0])
    return TransposedKernel(library.concatenate([library.asarray(kernel).T for kernel in kernels]).astype(dtype))


def _library(x: Any) -> Any:
    """numpy for arrays on the host: nothing is compiled and no second copy is on the device. An export traces this."""
    return jnp if isinstance(x, jax.Array) else np
