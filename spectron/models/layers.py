"""The pieces both halves are built of: dense, norms, rotary positions, attention, feed-forward, a stack of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spectron.models.decode_layout import Turned, joined_name
from spectron.models.fused_attention import fused
from spectron.parallel.sharding import is_split

DENSE_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Dense(nn.Module):
    """A matrix product [..., in] → [..., out]; the kernel is stored in float32 and used in `dtype`."""

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = DENSE_INIT

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        stored = self.get_variable("params", "kernel")
        # Rows first: XLA's CPU backend multiplies plain matrices nearly twice as fast as batches of them.
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        if isinstance(stored, Turned):
            y = flat @ stored
        else:
            kernel = self.param(
                "kernel", nn.with_logical_partitioning(self.kernel_init, self.axes), (x.shape[-1], self.features)
            )
            y = jnp.dot(flat, kernel.astype(self.dtype))
        y = y.reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            bias = self.param(
                "bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]), (self.features,)
            )
            y = y + bias.astype(self.dtype)
        return y


def denses(module: nn.Module, x: Float[Array, "... I"], parts: dict[str, Dense]) -> list[Float[Array, "... O"]]:
    """Several products of the same x, without biases, which for_decoding may have joined in `module`'s parameters."""
    kernel = module.get_variable("params", joined_name(parts))
    if kernel is None:
        return [dense(x) for dense in parts.values()]
    dtype = next(iter(parts.values())).dtype
    y = x.reshape(-1, x.shape[-1]).astype(dtype) @ kernel
    ends = np.cumsum([dense.features for dense in parts.values()])[:-1]
    return jnp.split(y.reshape(*x.shape[:-1], -1), ends, axis=-1)


class RMSNorm(nn.Module):
    """x / rms(x) · scale, computed in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x − mean) / deviation · scale + bias over the last axis, computed in float32: the Conformer's norm."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        axes = ("embed",)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, axes), (x.shape[-1],))
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, axes), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale + bias).astype(x.dtype)


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

    One axis for both, or XLA's CPU backend copies a cache of one row at every step: 35 ms against 5 for 98 MB.
    """

    keys: Array
    values: Array


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245) with rotary positions; a query that may see nothing gets zeros."""

    num_heads: int
    num_kv_heads: int
    rope_base: float = 10_000.0
    dtype: Any = jnp.float32
    kernel: str = "plain"  # or one of fused_attention.py's, which wants to know the prefix
    prefix: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T T"] | None,
        cache: KVCache | None = None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        """With a cache the keys of several positions are written at its front, for later; those of a single one at
        each row's own `positions`, and it sees what stands there and before."""
        dim = x.shape[-1]
        width = dim // self.num_heads

        heads = {"query": self.num_heads, "key": self.num_kv_heads, "value": self.num_kv_heads}
        axes = ("embed", "heads")
        parts = {name: Dense(count * width, axes, dtype=self.dtype, name=name) for name, count in heads.items()}
        flat = denses(self, x, parts)
        query, key, value = (y.reshape(*x.shape[:2], n, width) for y, n in zip(flat, heads.values(), strict=True))
        query, key = (rotate(y, positions, self.rope_base) for y in (query, key))
        if cache is not None:
            cache = KVCache(*(write(*each, positions) for each in zip(cache, (key, value), strict=True)))
        if cache is not None and x.shape[1] == 1:
            mixed = attend_past(query, cache, positions)
        elif visible is None:
            raise ValueError("several positions are attended to, and nobody says who sees whom")
        elif self.kernel == "plain" or self.prefix is None:
            mixed = attend(query, key, value, visible)
        else:
            mixed = fused(self.kernel, query, key, value, visible, self.prefix)
        out = Dense(dim, ("heads", "embed"), dtype=self.dtype, name="out")(mixed.reshape(*x.shape[:2], dim))
        return out, cache


def write(
    past: Float[Array, "N S K"], new: Float[Array, "B T G K"], positions: Int[Array, "B T"]
) -> Float[Array, "N S K"]:
    """Half a cache, N = B · G, with new positions: several at the front, a single one at each row's own place."""
    batch, length, groups, width = new.shape
    new = new.astype(past.dtype).transpose(0, 2, 1, 3).reshape(batch * groups, length, width)
    if length > 1:
        return jax.lax.dynamic_update_slice(past, new, (0, 0, 0))
    return past.at[jnp.arange(batch * groups), jnp.repeat(positions[:, 0], groups)].set(new[:, 0])


def attend_past(
    query: Float[Array, "B 1 H K"], cache: KVCache, positions: Int[Array, "B 1"]
) -> Float[Array, "B 1 H K"]:
    """`attend` for a single position, which sees the cache up to its own place."""
    batch, _, heads, width = query.shape
    groups = cache.keys.shape[0] // batch
    rows = query.reshape(batch * groups, heads // groups, width)
    scores = jnp.einsum("nhk,nsk->nhs", rows, cache.keys, preferred_element_type=jnp.float32) * width**-0.5
    seen = jnp.arange(cache.keys.shape[1]) <= jnp.repeat(positions[:, 0], groups)[:, None]
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), axis=-1).astype(cache.values.dtype)
    return jnp.einsum("nhs,nsk->nhk", weights, cache.values).reshape(batch, 1, heads, width)


def attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G K"],
    visible: Bool[Array, "B T S"],
) -> Float[Array, "B T H K"]:
    """Softmax attention, H query heads sharing G key heads; scores and softmax in float32."""
    batch, length, heads, width = query.shape
    groups, past = key.shape[2], key.shape[1]
    share = heads // groups
    if is_split("heads"):  # the product below would join the split heads with the split rows, and so gather both
        scores = jnp.einsum(
            "btgnk,bsgk->bgnts",
            query.reshape(batch, length, groups, share, width),
            key,
            preferred_element_type=jnp.float32,
        )
        weights = _softmax(scores * width**-0.5, visible).astype(value.dtype)
        return jnp.einsum("bgnts,bsgk->btgnk", weights, value).reshape(batch, length, heads, width)
    # [B·G, share·T, K] × [B·G, K, S]: one batch axis and plain matrices, which every backend multiplies fastest.
    query = query.reshape(batch, length, groups, share, width).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch * groups, share * length, width)
    key = key.transpose(0, 2, 3, 1).reshape(batch * groups, width, past)
    value = value.transpose(0, 2, 1, 3).reshape(batch * groups, past, width)
    scores = jnp.matmul(query, key, preferred_element_type=jnp.float32) * width**-0.5
    weights = _softmax(scores.reshape(batch, groups, share, length, past), visible)
    weights = weights.reshape(batch * groups, share * length, past).astype(value.dtype)
    mixed = jnp.matmul(weights, value).reshape(batch, groups, share, length, width)
    return mixed.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _softmax(scores: Float[Array, "B G N T S"], visible: Bool[Array, "B T S"]) -> Float[Array, "B G N T S"]:
    mask = visible[:, None, None]
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1), 0.0)


class GatedFeedForward(nn.Module):
    """GELU-gated feed-forward (arXiv 2002.05202): (gelu(x W_gate) · x W_up) W_down."""

    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        axes = ("embed", "mlp")
        parts = {name: Dense(self.hidden, axes, dtype=self.dtype, name=name) for name in ("gate", "up")}
        gate, up = denses(self, x, parts)
        return Dense(x.shape[-1], ("mlp", "embed"), dtype=self.dtype, name="down")(nn.gelu(gate) * up)


def stack(block: type[nn.Module], num_layers: int, scan: bool, remat: str) -> Callable[..., Callable[..., Any]]:
    """A stack of `block`s as one callable module: block(x, layer_cache, *shared) → (x, layer_cache).

    scan: one compiled body, parameters and caches with a leading "layers" axis; otherwise separate submodules
    layers_0, … and a tuple of caches.
    remat: "none", "full" (keep only each layer's input) or "dots" (keep matrix products too).
    """
    policies = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
    if remat != "none":
        block = nn.remat(block, policy=policies[remat], prevent_cse=not scan)

    def build(**arguments: Any) -> Callable[..., Any]:
        if scan:
            return _ScannedStack(block, num_layers, arguments, name="layers")
        layers = [block(**arguments, name=f"layers_{i}") for i in range(num_layers)]

        def run(x: Array, cache: Any, *shared: Any) -> tuple[Array, Any]:
            caches = []
            for i, layer in enumerate(layers):
                x, layer_cache = layer(x, None if cache is None else cache[i], *shared)
                caches.append(layer_cache)
            return x, None if cache is None else tuple(caches)

        return run

    return build


class _ScannedStack(nn.Module):
    block: type[nn.Module]
    num_layers: int
    arguments: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array, cache: Any, *shared: Any) -> tuple[Array, Any]:
        scanned = nn.scan(
            self.block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *(nn.broadcast,) * len(shared)),
            length=self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(**self.arguments, name="block")(x, cache, *shared)
