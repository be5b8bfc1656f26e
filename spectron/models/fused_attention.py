"""Attention by fused kernels, which never write the scores to memory: the same function as layers.attend, to rounding.

"cudnn" runs on NVIDIA GPUs in bfloat16 or float16, "splash" on TPUs (elsewhere it is interpreted, slowly: for tests).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spectron.parallel.sharding import split_map
from spectron.types import UserError

BLOCK = 128  # positions that a TPU kernel handles at once: its lanes
KINDS = ("plain", "cudnn", "splash")


def fused(
    kind: str,
    query: Float[Array, "B T H K"],
    key: Float[Array, "B T G K"],
    value: Float[Array, "B T G K"],
    visible: Bool[Array, "B T T"],
    prefix: int,
) -> Float[Array, "B T H K"]:
    """Attention by the kernel `kind`; a query that may see nothing gets zeros.

    visible: causal but for the first `prefix` positions, which see each other, and only between real positions (which
    see themselves). Raises UserError for an unknown kind.
    """
    real = jnp.diagonal(visible, axis1=1, axis2=2)
    if kind == "cudnn":
        mixed = _cudnn(query, key, value, visible, real)
    elif kind == "splash":
        share = query.shape[2] // key.shape[2]
        heads = ("batch", "length", "heads", None)
        kernel = split_map(functools.partial(_splash, prefix), heads, heads, heads, ("batch", "length"))
        mixed = kernel(query, jnp.repeat(key, share, axis=2), jnp.repeat(value, share, axis=2), real)
    else:
        raise UserError(f"model.lm.attention {kind!r} is unknown; use {', '.join(KINDS)}.")
    return jnp.where(real[:, :, None, None], mixed, 0.0)


def _cudnn(query: Array, key: Array, value: Array, visible: Array, real: Array) -> Array:
    """With a mask the kernel's gradient takes even lengths only."""
    length = query.shape[1]
    # It divides by the sum of what is seen: padding sees itself, and the result is dropped.
    mask = visible | (~real[:, :, None] & jnp.eye(length, dtype=bool))
    if length % 2:
        query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        mask = jnp.pad(mask, ((0, 0), (0, 1), (0, 1))).at[:, -1, -1].set(True)
    mixed = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None], implementation="cudnn")
    return mixed[:, :length]


def _splash(prefix: int, query: Array, key: Array, value: Array, real: Array) -> Array:
    """[B, T, H, K] three times and bool [B, T]; here real and padding are two segments that do not see each other."""
    from jax.experimental.pallas.ops.tpu import splash_attention

    length, heads, width = query.shape[1:]
    filled = length + -length % BLOCK
    place = np.arange(filled)
    seen = (place[None, :] <= place[:, None]) | (place[None, :] < prefix)
    mask = splash_attention.MultiHeadMask([splash_attention.NumpyMask(seen)] * heads)

    def fill(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, filled - length), (0, 0), (0, -width % BLOCK)))
        return x.swapaxes(1, 2)

    def run(interpret: bool, *arrays: Array) -> Array:
        kernel = splash_attention.make_splash_mha_single_device(mask, interpret=interpret)

        def row(query: Array, key: Array, value: Array, segments: Array) -> Array:
            return kernel(query, key, value, splash_attention.SegmentIds(segments, segments))

        return jax.vmap(row)(*arrays)

    segments = jnp.pad(real.astype(jnp.int32), ((0, 0), (0, filled - length)))
    mixed = jax.lax.platform_dependent(
        *(fill(query * width**-0.5), fill(key), fill(value), segments),
        tpu=functools.partial(run, False),
        default=functools.partial(run, True),
    )
    return mixed.swapaxes(1, 2)[:, :length, :, :width]
