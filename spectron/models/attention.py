"""Multi-head attention: the module, its cache for decoding, and the plain implementation."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.models.fused_attention import fused_attention
from spectron.models.layers import Dense, fused_dense
from spectron.parallel.sharding import is_split


def rotate(x: Float[Array, "B T H K"], positions: Int[Array, "B T"], base: float) -> Float[Array, "B T H K"]:
    """Rotary position embedding (arXiv 2104.09864): halves of a head are rotated by position · base^(−2i/K)."""
    half = x.shape[-1] // 2
    rates = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions[..., None, None].astype(jnp.float32) * rates
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class KVCache(NamedTuple):
    """Keys and values of past positions, [B · kv heads, S, head width] each (a leading layer axis in a scanned stack).

    Rows and heads share one axis because XLA's CPU backend otherwise copies the cache of a single row at every step:
    35 ms against 5 ms for 98 MB.
    """

    keys: Array
    values: Array


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245). The output is zero for a query that attends to nothing.

    num_kv_heads: key and value heads, each shared by num_heads / num_kv_heads query heads.
    head_dim: width of one head; 0 takes the input width / num_heads.
    rope_base: base of the rotary position embedding; None applies none.
    scale: factor of the scores; 0 takes head_dim ** -0.5.
    kernel: "plain", or a kernel of fused_attention.py, used if `prefix` is given (the number of leading positions that
    attend to each other in both directions).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int = 0
    rope_base: float | None = 10_000.0
    scale: float = 0.0
    qkv_bias: bool = False
    out_bias: bool = False
    dtype: Any = jnp.float32
    kernel: str = "plain"
    prefix: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        attention_mask: Bool[Array, "B T T"] | None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """With a cache: T > 1 writes cache[0:T]; T = 1 writes at `positions` and attends up to it, without a mask."""
        dim = x.shape[-1]
        width = self.head_dim or dim // self.num_heads
        scale = self.scale or width**-0.5
        counts = {"query": self.num_heads, "key": self.num_kv_heads, "value": self.num_kv_heads}
        products = {
            name: Dense(count * width, ("embed", "heads"), use_bias=self.qkv_bias, dtype=self.dtype, name=name)
            for name, count in counts.items()
        }
        flat = fused_dense(self, x, products)
        query, key, value = (y.reshape(*x.shape[:2], n, width) for y, n in zip(flat, counts.values(), strict=True))
        if self.rope_base is not None:
            query, key = (rotate(y, positions, self.rope_base) for y in (query, key))
        if cache is not None:
            keys = update_cache(cache.keys, key, positions)
            cache = KVCache(keys, update_cache(cache.values, value, positions))
        if cache is not None and x.shape[1] == 1:
            mixed = decode_attention(query, cache, positions, scale)
        elif attention_mask is None:
            raise ValueError("attention over several positions needs an attention_mask")
        elif self.kernel == "plain" or self.prefix is None:
            mixed = attention(query, key, value, attention_mask, scale)
        else:
            mixed = fused_attention(self.kernel, query, key, value, attention_mask, self.prefix, scale)
        flat_heads = mixed.reshape(*x.shape[:2], self.num_heads * width)
        out = Dense(dim, ("heads", "embed"), use_bias=self.out_bias, dtype=self.dtype, name="out")(flat_heads)
        return out, cache


def update_cache(
    past: Float[Array, "N S K"], new: Float[Array, "B T G K"], positions: Int[Array, "B T"]
) -> Float[Array, "N S K"]:
    """Write new keys (or values) into half a cache, N = B · G: T > 1 writes [0:T], T = 1 writes at `positions`."""
    batch, length, groups, width = new.shape
    new = new.astype(past.dtype).transpose(0, 2, 1, 3).reshape(batch * groups, length, width)
    if length > 1:
        return jax.lax.dynamic_update_slice(past, new, (0, 0, 0))
    return past.at[jnp.arange(batch * groups), jnp.repeat(positions[:, 0], groups)].set(new[:, 0])


def decode_attention(
    query: Float[Array, "B 1 H K"], cache: KVCache, positions: Int[Array, "B 1"], scale: float | None = None
) -> Float[Array, "B 1 H K"]:
    """`attention` of a single query per row over the cache, up to and including the query's own position."""
    batch, _, heads, width = query.shape
    scale = width**-0.5 if scale is None else scale
    groups = cache.keys.shape[0] // batch
    grouped = query.reshape(batch * groups, heads // groups, width)
    scores = jnp.einsum("nhk,nsk->nhs", grouped, cache.keys, preferred_element_type=jnp.float32) * scale
    past = jnp.arange(cache.keys.shape[1]) <= jnp.repeat(positions[:, 0], groups)[:, None]
    weights = jax.nn.softmax(jnp.where(past[:, None], scores, -1e30), axis=-1).astype(cache.values.dtype)
    return jnp.einsum("nhs,nsk->nhk", weights, cache.values).reshape(batch, 1, heads, width)


def attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    attention_mask: Bool[Array, "B T S"],
    scale: float | None = None,
) -> Float[Array, "B T H K"]:
    """Softmax attention, H query heads sharing G key heads; scores and softmax in float32.

    scale: factor of the scores; None takes K ** -0.5.
    """
    batch, length, heads, width = query.shape
    scale = width**-0.5 if scale is None else scale
    groups, past = key.shape[2], key.shape[1]
    share = heads // groups
    if is_split("heads"):  # the reshape below would merge two sharded axes (rows, heads), and so gather both
        scores = jnp.einsum(
            "btgnk,bsgk->bgnts",
            query.reshape(batch, length, groups, share, width),
            key,
            preferred_element_type=jnp.float32,
        )
        weights = _softmax(scores * scale, attention_mask).astype(value.dtype)
        return jnp.einsum("bgnts,bsgk->btgnk", weights, value).reshape(batch, length, heads, width)
    # [B·G, share·T, K] × [B·G, K, S]: one batch axis and plain matrices, which every backend multiplies fastest.
    query = query.reshape(batch, length, groups, share, width).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch * groups, share * length, width)
    key = key.transpose(0, 2, 3, 1).reshape(batch * groups, width, past)
    value = value.transpose(0, 2, 1, 3).reshape(batch * groups, past, width)
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32) * scale
    weights = _softmax(scores.reshape(batch, groups, share, length, past), attention_mask)
    weights = weights.reshape(batch * groups, share * length, past).astype(value.dtype)
    mixed = jnp.matmul(weights, value).reshape(batch, groups, share, length, width)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _softmax(scores: Float[Array, "B G N T S"], attention_mask: Bool[Array, "B T S"]) -> Float[Array, "B G N T S"]:
    mask = attention_mask[:, None, None]
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1), 0.0)
