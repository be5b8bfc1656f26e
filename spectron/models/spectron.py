"""Spectron (arXiv 2305.15255): encoder, connector, LM, pre-net, post-net and stop head around one sequence.

    input : [ Connector(E(x_p)) ]  [ <sos> y_p y_c ]        [ PreNet(go, x_c without its last step) ]
    output:       no loss          [ y_p y_c <eos> ]        [ PostNet → x̂_c, stop ]

Three fixed segments [prefix P][text L][frames T / r] with masks; r = frames_per_step frames share a decoder position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.config import ModelConfig
from spectron.models.conformer import Conformer
from spectron.models.decoder import Cache, Decoder, prefix_visible
from spectron.models.layers import Dense
from spectron.types import Sequence


class PreNet(nn.Module):
    """Frames → LM width through a bottleneck; `keep` is its dropout mask, already scaled (None: no dropout)."""

    bottleneck: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Float[Array, "B T R"], keep: Float[Array, "B T N"] | None) -> Float[Array, "B T D"]:
        x = nn.relu(Dense(self.bottleneck, ("mel", None), True, self.dtype, name="down")(frames))
        if keep is not None:
            x = x * keep.astype(x.dtype)
        return Dense(self.dim, (None, "embed"), True, self.dtype, name="up")(x)


class PostNet(nn.Module):
    """LM width → the step's frames, float32."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T R"]:
        x = nn.gelu(Dense(x.shape[-1], ("embed", "mlp"), True, self.dtype, name="hidden")(x))
        return Dense(self.features, ("mlp", "mel"), True, self.dtype, name="out")(x).astype(jnp.float32)


class Output(NamedTuple):
    """written [B, L, D] and spoken [B, T / r, D]: the LM's hidden states at text and at frame steps, for `logits`;
    frames float32 [B, T, F] normalised; stop logits float32 [B, T]."""

    written: Array
    spoken: Array
    frames: Array
    stop: Array


class Spectron(nn.Module):
    """The joint model. Parameter names, a checkpoint's vocabulary: encoder, connector, lm, prenet, postnet, stop."""

    config: ModelConfig
    vocab_size: int
    num_mels: int
    unrolled: bool = False  # the LM's layers, whatever scan_layers says: see kernels.for_decoding

    output_streams = ("text", "frames")  # what decoding generates, in order

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        shared = {"scan_layers": c.scan_layers, "remat": c.remat, "dtype": dtype}
        step = c.frames.frames_per_step
        self.encoder = Conformer(c.encoder, **shared)
        self.connector = Dense(c.lm.dim, (None, "embed"), use_bias=True, dtype=dtype)
        scan = c.scan_layers and not self.unrolled
        self.lm = Decoder(c.lm, self.vocab_size, **shared | {"scan_layers": scan})
        self.prenet = PreNet(c.frames.bottleneck, c.lm.dim, dtype)
        self.postnet = PostNet(step * self.num_mels, dtype)
        self.stop = Dense(step, ("embed", None), use_bias=True, dtype=dtype)

    def prefix(self, prompt: Sequence, deterministic: bool = True) -> Sequence:
        """Normalised log-mel of the prompt → vectors the LM reads, [B, P, D]."""
        encoded = self.encoder(prompt, deterministic)
        return Sequence(self.connector(encoded.values), encoded.mask).masked()

    def __call__(
        self,
        prompt: Sequence,
        tokens: Sequence,
        steps: Sequence,
        keep: Float[Array, "B T N"] | None = None,
        deterministic: bool = True,
    ) -> Output:
        """Teacher forcing. tokens: int [B, L] starting with sos; steps: [B, T/r, r·F], what is fed back (go first)."""
        prefix = self.prefix(prompt, deterministic)
        text = Sequence(self.lm.embed(tokens.values), tokens.mask).masked()
        fed = Sequence(self.prenet(steps.masked().values, keep), steps.mask).masked()
        x = jnp.concatenate([prefix.values, text.values, fed.values], axis=1)
        mask = jnp.concatenate([prefix.mask, text.mask, fed.mask], axis=1)
        size, length = prefix.mask.shape[1], tokens.mask.shape[1]
        inside = jnp.broadcast_to(jnp.arange(mask.shape[1]) < size, mask.shape)
        visible = prefix_visible(mask, inside)
        hidden, _ = self.lm(x, count_positions(mask), visible, deterministic=deterministic, prefix=size)
        written, spoken = hidden[:, size : size + length], hidden[:, size + length :]
        if self.is_initializing():
            self.logits(written[:, :1])  # so that the text head has parameters
        return Output(written, spoken, *self.speak(spoken))

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Vocabulary logits, float32."""
        return self.lm.logits(hidden)

    def read(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        """Hidden states of the LM that has heard nothing."""
        return self.lm.read(tokens, mask, jnp.zeros(tokens.shape[0], jnp.int32))

    def speak(self, hidden: Float[Array, "B N D"]) -> tuple[Float[Array, "B T F"], Float[Array, "B T"]]:
        """Hidden states of frame steps → their frames (normalised) and stop logits, one per frame."""
        batch, steps, _ = hidden.shape
        per_step = self.config.frames.frames_per_step
        frames = self.postnet(hidden).reshape(batch, steps * per_step, self.num_mels)
        return frames, self.stop(hidden).astype(jnp.float32).reshape(batch, steps * per_step)

    def prefill(self, prompt: Sequence, cache: Cache) -> tuple[Cache, Bool[Array, "B P"]]:
        """Write the prompt into the cache's first P positions; returns the cache and the prefix mask."""
        prefix = self.prefix(prompt)
        visible = prefix_visible(prefix.mask, jnp.ones_like(prefix.mask))
        _, cache = self.lm(prefix.values, count_positions(prefix.mask), visible, cache)
        return cache, prefix.mask

    def advance(
        self,
        tokens: Int[Array, " B"] | None,
        previous_frames: Float[Array, "B R"] | None,
        reads_text: Bool[Array, " B"],
        dropout_mask: Float[Array, "B N"] | None,
        positions: Int[Array, " B"],
        cache: Cache,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Decode one position of every slot; returns hidden states, for `logits` and `speak`, and the cache.

        Slots where `reads_text` is true read their token, the others their previous frame step. Without tokens, or
        without frames (None), all slots read the other. positions: real elements that a slot has already, which are at
        the front of the cache.
        """
        if tokens is None and previous_frames is None:
            raise ValueError("a position reads neither a token nor frames; give one of them")
        word = None if tokens is None else self.lm.embed(tokens[:, None])
        if previous_frames is None:
            x = word
        else:
            mask = None if dropout_mask is None else dropout_mask[:, None]
            sound = self.prenet(previous_frames[:, None], mask)
            x = sound if word is None else jnp.where(reads_text[:, None, None], word, sound)
        hidden, cache = self.lm(x, positions[:, None], None, cache)
        return hidden[:, 0], cache


def count_positions(mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions count real elements only, from 0."""
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
