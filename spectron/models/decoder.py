"""Decoder LM: a pre-norm Transformer that reads vectors: embedded tokens, encoded speech or frames."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.config import LMConfig
from spectron.models.attention import Attention, KVCache
from spectron.models.decode_layout import TransposedKernel
from spectron.models.layers import Dense, FeedForward, LayerNorm, RMSNorm, dot_float32, stack
from spectron.models.segments import Segment, join
from spectron.parallel.sharding import constrain
from spectron.types import UserError

Cache = KVCache | tuple[KVCache, ...]  # stacked (scanned layers), or one per layer


def check_positions(config: LMConfig, length: Any) -> None:
    """Raise UserError if learned positions do not reach `length` (unless it is symbolic)."""
    if config.positions == "learned" and isinstance(length, int) and length > config.max_positions:
        raise UserError(
            f"A sequence of {length} positions is longer than model.lm.max_positions {config.max_positions}; "
            f"shorten the prompt, the text or the continuation."
        )


def make_norm(config: LMConfig, name: str | None = None) -> nn.Module:
    """The norm that the config names."""
    if config.norm == "layer":
        return LayerNorm(config.norm_epsilon, name=name)
    return RMSNorm(config.norm_epsilon, config.norm_offset, name=name)


class DecoderBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x)."""

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
        attention_mask: Bool[Array, "B T T"] | None,
    ) -> tuple[Float[Array, "B T D"], KVCache | None]:
        c = self.config
        drop = nn.Dropout(c.dropout, deterministic=self.deterministic)
        attention = Attention(
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            head_dim=c.head_width,
            rope_base=c.rope_base if c.positions == "rotary" else None,
            scale=c.attention_scale,
            qkv_bias=c.qkv_bias,
            out_bias=c.out_bias,
            dtype=self.dtype,
            kernel=c.attention,
            prefix=self.prefix,
            name="attention",
        )
        y, cache = attention(make_norm(c, "attention_norm")(x), positions, attention_mask, cache)
        x = x + drop(y)
        feed_forward = FeedForward(c.ff_dim, c.gated, c.activation, c.ff_bias, self.dtype, name="ff")
        y = feed_forward(make_norm(c, "ff_norm")(x))
        return constrain(x + drop(y), "batch", "length", "embed"), cache


class Decoder(nn.Module):
    """The LM: token embedding, layers, vocabulary logits. The caller gives positions and mask (see `join`)."""

    config: LMConfig
    vocab_size: int
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.embedding = self.param("embedding", init, (self.vocab_size, self.config.dim))
        if self.config.positions == "learned":
            init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("length", "embed"))
            shape = (self.config.max_positions, self.config.dim)
            self.position_embedding = self.param("position_embedding", init, shape)
        self.final_norm = make_norm(self.config)
        if not self.config.tie_embeddings:
            self.head = Dense(self.vocab_size, ("embed", "vocab"), dtype=self.dtype, float32_output=True)

    def embed(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """Token ids → vectors."""
        table = self.embedding.values if isinstance(self.embedding, TransposedKernel) else self.embedding
        vectors = jnp.take(table, constrain(tokens, "rows", "length"), axis=0)
        if self.config.embedding_scale != 1.0:
            vectors = vectors * self.config.embedding_scale
        return constrain(vectors, "batch", "length", "embed").astype(self.dtype)

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Vocabulary logits, accumulated in float32."""
        hidden = constrain(hidden, "rows", "length", None)
        if self.config.tie_embeddings:
            scale = self.config.tied_logit_scale or self.config.dim**-0.5  # the embedding starts with unit deviation
            if isinstance(self.embedding, TransposedKernel):
                flat = hidden.reshape(-1, hidden.shape[-1])
                scores = self.embedding.dot_float32(flat).reshape(*hidden.shape[:-1], -1) * scale
            else:
                scores = dot_float32(hidden.astype(self.dtype), self.embedding.astype(self.dtype).T) * scale
        else:
            scores = self.head(hidden)
        return constrain(scores, "rows", "length", "vocab")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        attention_mask: Bool[Array, "B T T"] | None,
        cache: Cache | None = None,
        deterministic: bool = True,
        prefix: int | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Vectors → hidden states after the last norm, and the updated cache.

        With a cache (see Attention), a single position needs no attention_mask.
        prefix: the number of leading positions that attend to each other in both directions, if it is the same for all
        rows and known (`Joined.bidirectional_prefix`); without it, fused attention kernels are not used.
        """
        x = x.astype(self.dtype)
        if self.config.positions == "learned":
            check_positions(self.config, x.shape[1])
            x = x + jnp.take(self.position_embedding, positions, axis=0, mode="clip").astype(self.dtype)
        layers = stack(DecoderBlock, self.config.num_layers, self.scan_layers, self.remat)(
            config=self.config, deterministic=deterministic, dtype=self.dtype, prefix=prefix
        )
        x, cache = layers(x, cache, positions, attention_mask)
        return self.final_norm(x), cache

    def score(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], prefix: Int[Array, " B"]) -> Array:
        """Logits float32 [B, L, V] of text alone; see `hidden_states`."""
        return self.logits(self.hidden_states(tokens, mask, prefix))

    def hidden_states(
        self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], prefix: Int[Array, " B"] | None = None
    ) -> Float[Array, "B L D"]:
        """Hidden states of text alone. prefix: how many first tokens of each row attend to each other in both
        directions; None: none."""
        inside = False if prefix is None else jnp.arange(tokens.shape[1])[None, :] < prefix[:, None]
        text = join([Segment(self.embed(tokens), mask, inside)])
        return self(text.values, text.positions, text.attention_mask, prefix=text.bidirectional_prefix)[0]


def empty_cache(config: LMConfig, batch: Any, length: Any, dtype: Any = jnp.float32, scan: bool = True) -> Cache:
    """Zeros for `length` positions. scan: stacked over layers; otherwise one KVCache per layer. Sizes may be symbolic.

    Raises UserError if learned positions do not reach `length`.
    """
    check_positions(config, length)
    shape = (batch * config.num_kv_heads, length, config.head_width)
    if scan:
        stacked = (config.num_layers, *shape)
        return KVCache(jnp.zeros(stacked, dtype), jnp.zeros(stacked, dtype))
    return tuple(KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers))
