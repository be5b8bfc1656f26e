"""Attention by fused kernels, which never write the scores to memory: equal to attention.attention up to rounding.

"cudnn" runs on NVIDIA GPUs in bfloat16 or float16, "splash" on TPUs (elsewhere it is interpreted, slowly: for tests).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spectron.parallel.sharding import split_map

BLOCK = 128  # positions that a TPU kernel handles at once: its lanes


def fused_attention(
    kind: str,
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T G K"],
    value: Float[Array, "B T G K"],
    attention_mask: Bool[Array, "B T T"],
    prefix: int,
    scale: float | None = None,
) -> Float[Array, "B T H K"]:
    """Attention by the kernel `kind`, "cudnn" or "splash"; the output is zero for a query that attends to nothing.

    attention_mask: causal, except that the first `prefix` positions attend to each other in both directions, and only
    between real positions (which attend to themselves). scale: factor of the scores; None takes K ** -0.5.
    """
    real = jnp.diagonal(attention_mask, axis1=1, axis2=2)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if kind == "cudnn":
        mixed = _cudnn(query, key, value, attention_mask, real, scale)
    else:
        share = query.shape[2] // key.shape[2]
        heads = ("batch", "length", "heads", None)
        kernel = split_map(functools.partial(_splash, prefix, scale), heads, heads, heads, ("batch", "length"))
        mixed = kernel(query, jnp.repeat(key, share, axis=2), jnp.repeat(value, share, axis=2), real)
    return jnp.where(real[:, :, None, None], mixed, 0.0)


def _cudnn(query: Array, key: Array, value: Array, attention_mask: Array, real: Array, scale: float) -> Array:
    """With a mask, the gradient of cuDNN's kernel needs an even length."""
    length = query.shape[1]
    # The kernel divides by the sum of the weights: padding attends to itself, and its output is dropped.
    mask = attention_mask | (~real[:, :, None] & jnp.eye(length, dtype=bool))
    if length % 2:
        query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        mask = jnp.pad(mask, ((0, 0), (0, 1), (0, 1))).at[:, -1, -1].set(True)
    mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], scale=scale, implementation="cudnn")
    return mixed[:, :length]


def _splash(prefix: int, scale: float, query: Array, key: Array, value: Array, real: Array) -> Array:
    """query, key, value: [B, T, H, K]; real: bool [B, T].

    Real elements and padding are two segments of the kernel, which do not attend to each other.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention

    length, heads, width = query.shape[1:]
    padded_length = length + -length % BLOCK
    order = np.arange(padded_length)
    allowed = (order[None, :] <= order[:, None]) | (order[None, :] < prefix)
    mask = splash_attention.MultiHeadMask([splash_attention.NumpyMask(allowed)] * heads)

    def pad(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, padded_length - length), (0, 0), (0, -width % BLOCK)))
        return x.swapaxes(1, 2)

    def run(interpret: bool, *arrays: Array) -> Array:
        kernel = splash_attention.make_splash_mha_single_device(mask, interpret=interpret)

        def row(query: Array, key: Array, value: Array, segments: Array) -> Array:
            return kernel(query, key, value, splash_attention.SegmentIds(segments, segments))

        return jax.vmap(row)(*arrays)

    segments = jnp.pad(real.astype(jnp.int32), ((0, 0), (0, padded_length - length)))
    mixed = jax.lax.platform_dependent(
        *(pad(query * scale), pad(key), pad(value), segments),
        tpu=functools.partial(run, False),
        default=functools.partial(run, True),
    )
    return mixed.swapaxes(1, 2)[:, :length, :, :width]
