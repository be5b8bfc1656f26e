"""Spectron (arXiv 2305.15255): encoder, connector, LM, pre-net, post-net and stop head around one sequence.

    input : [ Connector(E(x_p)) ]  [ <sos> y_p y_c ]        [ PreNet(go, x_c without its last step) ]
    output:       no loss          [ y_p y_c <eos> ]        [ PostNet → x̂_c, stop ]

Three segments of fixed size, each with its mask: prefix P (bidirectional, or causal), text L and frames T / r (causal);
r = frames_per_step frames share a decoder position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from spectron.config import ModelConfig
from spectron.models.connectors import make_connector
from spectron.models.decoder import Cache, Decoder
from spectron.models.encoder import make_encoder
from spectron.models.layers import Dense
from spectron.models.segments import Joined, Segment, join
from spectron.types import Sequence, Statistics


class PreNet(nn.Module):
    """Frames → LM width through a bottleneck. dropout_mask: 0 or 1 / (1 − rate) for each unit of the bottleneck."""

    bottleneck: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Float[Array, "B T R"], dropout_mask: Float[Array, "B T N"] | None
    ) -> Float[Array, "B T D"]:
        x = nn.relu(Dense(self.bottleneck, ("mel", None), True, self.dtype, name="down")(frames))
        if dropout_mask is not None:
            x = x * dropout_mask.astype(x.dtype)
        return Dense(self.dim, (None, "embed"), True, self.dtype, name="up")(x)


class PostNet(nn.Module):
    """LM width → the step's frames, accumulated in float32."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T R"]:
        x = nn.gelu(Dense(x.shape[-1], ("embed", "mlp"), True, self.dtype, name="hidden")(x))
        return Dense(self.features, ("mlp", "mel"), True, self.dtype, float32_output=True, name="out")(x)


class Output(NamedTuple):
    """What the model computes under teacher forcing.

    text_hidden [B, L, D], frame_hidden [B, T / r, D]: the LM's hidden states at text and frame positions, for `logits`.
    frames: float32 [B, T, F], normalised log-mel. stop: float32 [B, T], stop logits.
    """

    text_hidden: Array
    frame_hidden: Array
    frames: Array
    stop: Array


class Spectron(nn.Module):
    """The joint model. Parameter names, a checkpoint's vocabulary: encoder, connector, lm, prenet, postnet, stop."""

    config: ModelConfig
    vocab_size: int
    num_mels: int
    unrolled: bool = False  # separate LM layers, whatever scan_layers says: the layout of to_decode_layout

    output_streams = ("text", "frames")  # what decoding generates, in order

    def setup(self) -> None:
        c, dtype = self.config, jnp.dtype(self.config.compute_dtype)
        step = c.frames.frames_per_step
        self.encoder = make_encoder(c)
        self.connector = make_connector(c)
        scan = c.scan_layers and not self.unrolled
        self.lm = Decoder(c.lm, self.vocab_size, scan_layers=scan, remat=c.remat, dtype=dtype)
        self.prenet = PreNet(c.frames.bottleneck, c.lm.dim, dtype)
        self.postnet = PostNet(step * self.num_mels, dtype)
        self.stop = Dense(step, ("embed", None), use_bias=True, dtype=dtype, float32_output=True)

    def prefix(
        self,
        prompt: Shaped[Array, "B S"],
        prompt_samples: Int[Array, " B"],
        statistics: Statistics,
        deterministic: bool = True,
    ) -> Segment:
        """int16 samples of the prompt, and each row's length → the vectors that the LM reads first, [B, P, D]."""
        vectors = self.connector(self.encoder(prompt, prompt_samples, statistics, deterministic))
        return Segment(vectors.values, vectors.mask, self.config.bidirectional_prefix)

    def __call__(
        self,
        prompt: Shaped[Array, "B S"],
        prompt_samples: Int[Array, " B"],
        statistics: Statistics,
        tokens: Sequence,
        steps: Sequence,
        dropout_mask: Float[Array, "B T N"] | None = None,
        deterministic: bool = True,
    ) -> Output:
        """Teacher forcing.

        prompt: int16 samples; prompt_samples: the length of each row. statistics: of the log-mel normalisation.
        tokens: int [B, L], starting with sos. steps: [B, T / r, r · F], the frames fed back, starting with go.
        dropout_mask: of the pre-net.
        """
        joined = join(
            [
                self.prefix(prompt, prompt_samples, statistics, deterministic),
                Segment(self.lm.embed(tokens.values), tokens.mask),
                Segment(self.prenet(steps.masked().values, dropout_mask), steps.mask),
            ]
        )
        hidden, _ = self._read(joined, deterministic=deterministic)
        _, text_hidden, frame_hidden = joined.split(hidden)
        if self.is_initializing():
            self.logits(text_hidden[:, :1])  # creates the parameters of the text head
        frames, stop = self.predict_frames(frame_hidden)
        return Output(text_hidden, frame_hidden, frames, stop)

    def _read(
        self, joined: Joined, cache: Cache | None = None, deterministic: bool = True
    ) -> tuple[Float[Array, "B N D"], Any]:
        return self.lm(
            joined.values,
            joined.positions,
            joined.attention_mask,
            cache,
            deterministic=deterministic,
            prefix=joined.bidirectional_prefix if cache is None else None,
        )

    def logits(self, hidden: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """Vocabulary logits, float32."""
        return self.lm.logits(hidden)

    def hidden_states(self, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        """Hidden states of the LM on text alone, without a prompt."""
        return self.lm.hidden_states(tokens, mask)

    def predict_frames(self, hidden: Float[Array, "B N D"]) -> tuple[Float[Array, "B T F"], Float[Array, "B T"]]:
        """Hidden states of frame positions → their frames (normalised log-mel) and stop logits, one per frame."""
        batch, steps, _ = hidden.shape
        per_step = self.config.frames.frames_per_step
        frames = self.postnet(hidden).reshape(batch, steps * per_step, self.num_mels)
        return frames, self.stop(hidden).reshape(batch, steps * per_step)

    def prefill(
        self, prompt: Shaped[Array, "B S"], prompt_samples: Int[Array, " B"], statistics: Statistics, cache: Cache
    ) -> tuple[Cache, Bool[Array, "B P"]]:
        """Write the prompt into the cache's first P positions; returns the cache and the mask of the prefix."""
        joined = join([self.prefix(prompt, prompt_samples, statistics)])
        _, cache = self._read(joined, cache)
        return cache, joined.mask

    def decode_step(
        self,
        tokens: Int[Array, " B"] | None,
        previous_frames: Float[Array, "B R"] | None,
        reads_text: Bool[Array, " B"],
        dropout_mask: Float[Array, "B N"] | None,
        positions: Int[Array, " B"],
        cache: Cache,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Decode one position of every slot; returns hidden states, for `logits` and `predict_frames`, and the cache.

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


def prefix_length(model: ModelConfig, num_samples: Any) -> Any:
    """Decoder positions that a prompt of `num_samples` samples takes: ints, integer arrays or symbolic sizes."""
    return make_connector(model).output_length(make_encoder(model).output_length(num_samples))


def connector_flops(model: ModelConfig, num_samples: int) -> float:
    """Forward model FLOPs of the connector on one prompt of `num_samples` samples."""
    encoder = make_encoder(model)
    return make_connector(model).flops(encoder.width, encoder.output_length(num_samples))
