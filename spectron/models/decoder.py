"""Prefix decoder: a pre-norm Transformer LM that also takes vectors in place of tokens."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.config import LMConfig
from spectron.models.decode_layout import Turned
from spectron.models.layers import Attention, Dense, GatedFeedForward, KVCache, RMSNorm, stack
from spectron.parallel.sharding import constrain

Cache = KVCache | tuple[KVCache, ...]  # of a stack that is scanned, or of one that is not


class DecoderBlock(nn.Module):
    """x + attention(norm x), x + feed-forward(norm x)."""

    config: LMConfig
    deterministic: bool
    dtype: Any = jnp.float32
    prefix: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        cache: KVCache | None,
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T T"] | None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
        kernel = {"kernel": c.attention, "prefix": self.prefix}
        attention = Attention(c.num_heads, c.num_kv_heads, c.rope_base, self.dtype, **kernel, name="attention")
        y, cache = attention(RMSNorm(name="attention_norm")(x), positions, visible, cache)
        x = x + drop(y)
        y = GatedFeedForward(c.ff_dim, self.dtype, name="ff")(RMSNorm(name="ff_norm")(x))
        return constrain(x + drop(y), "batch", "length", "embed"), cache


class Decoder(nn.Module):
    """The LM: embed, transform, logits. Positions and visibility are the caller's (see `prefix_visible`)."""

    config: LMConfig
    vocab_size: int
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.config.dim))
        self.final_norm = RMSNorm()
        if not self.config.tie_embeddings:
            self.head = Dense(self.vocab_size, ("embed", "vocab"), dtype=self.dtype)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Token ids → vectors."""
        table = self.embedding.values if isinstance(self.embedding, Turned) else self.embedding
        found = jnp.take(table, constrain(tokens, "rows", "length"), axis=0)
        return constrain(found, "batch", "length", "embed").astype(self.dtype)

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Vocabulary logits, float32."""
        hidden = constrain(hidden, "rows", "length", None)
        if self.config.tie_embeddings:
            scale = self.config.dim**-0.5  # the embedding has unit deviation
            if isinstance(self.embedding, Turned):
                scores = (hidden.reshape(-1, hidden.shape[-1]) @ self.embedding).reshape(*hidden.shape[:-1], -1) * scale
            else:
                scores = jnp.dot(hidden, self.embedding.astype(self.dtype).T) * scale
        else:
            scores = self.head(hidden)
        return constrain(scores.astype(jnp.float32), "rows", "length", "vocab")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        visible: Bool[Array, "B T T"] | None,
        cache: Cache | None = None,
        deterministic: bool = True,
        prefix: int | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Vectors → hidden states after the last norm. With a cache, see Attention, a single position needs no
        `visible`.

        prefix: how many first positions see each other both ways, where all rows agree; fused attention needs it said.
        """
        layers = stack(DecoderBlock, self.config.num_layers, self.scan_layers, self.remat)(
            config=self.config, deterministic=deterministic, dtype=self.dtype, prefix=prefix
        )
        x, cache = layers(x.astype(self.dtype), cache, positions, visible)
        return self.final_norm(x), cache

    def score(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], prefix: Int[Array, " B"]) -> Array:
        """Text alone: logits float32 [B, L, V], see `read`."""
        return self.logits(self.read(tokens, mask, prefix))

    def read(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], prefix: Int[Array, " B"]) -> Array:
        """Text alone: hidden states [B, L, D] with the first `prefix` tokens of a row seeing each other both ways."""
        x = jnp.where(mask[..., None], self.embed(tokens), 0.0)
        inside = jnp.arange(tokens.shape[1])[None, :] < prefix[:, None]
        positions = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        return self(x, positions, prefix_visible(mask, inside))[0]


def prefix_visible(mask: Bool[Array, "B T"], prefix: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Who sees whom: causal, but prefix elements see the whole prefix; padding is seen by nobody."""
    order = jnp.arange(mask.shape[1])
    causal = order[None, :, None] >= order[None, None, :]
    both = prefix[:, :, None] & prefix[:, None, :]
    return (causal | both) & mask[:, None, :]


def empty_cache(config: LMConfig, batch: Any, length: Any, dtype: Any = jnp.float32, scan: bool = True) -> Cache:
    """Zeros for `length` positions, all layers' or, without scan, a layer's at a time; sizes may be symbols."""
    shape = (batch * config.num_kv_heads, length, config.dim // config.num_heads)
    if scan:
        stacked = (config.num_layers, *shape)
        return KVCache(jnp.zeros(stacked, dtype), jnp.zeros(stacked, dtype))
    return tuple(KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers))
