"""Conformer speech encoder (arXiv 2005.08100), with rotary positions and LayerNorm in place of BatchNorm (ours)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from spectron.audio.features import log_mel, normalise
from spectron.config import ConformerConfig, FeatureConfig
from spectron.models.attention import Attention
from spectron.models.encoder import SpeechEncoder, encoders
from spectron.models.layers import Dense, LayerNorm, stack
from spectron.models.specaugment import specaugment
from spectron.parallel.sharding import constrain
from spectron.types import Sequence, Statistics


class Subsampling(nn.Module):
    """Two convolutions over time with kernel 3 and stride 2: [B, T, F] → [B, ⌈⌈T/2⌉/2⌉, D].

    They are one-dimensional, with the bands as channels, so that each is one matrix product: 2-D convolutions of few
    channels took half of the encoder's time on CPU (ours).
    """

    channels: int
    dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, sequence: Sequence) -> Sequence:
        sequence = sequence.masked()
        for name, features, axes in (
            ("conv_0", self.channels, (None, "conv")),
            ("conv_1", self.dim, ("conv", "embed")),
        ):
            x, length = sequence.values, (sequence.values.shape[1] + 1) // 2
            # Frames −1, 0, 1 around every second frame; beyond the ends are zeros.
            padded = jnp.pad(x, ((0, 0), (1, 2 * length + 1 - x.shape[1]), (0, 0)))
            taps = jnp.concatenate([padded[:, i : i + 2 * length : 2] for i in range(3)], axis=-1)
            x = nn.gelu(Dense(features, axes, use_bias=True, dtype=self.dtype, name=name)(taps))
            sequence = Sequence(x, sequence.mask[:, ::2]).masked()
        x = Dense(self.dim, (None, "embed"), use_bias=True, dtype=self.dtype, name="project")(sequence.values)
        return Sequence(x, sequence.mask).masked()

    @staticmethod
    def output_length(num_frames: Any) -> Any:
        """Frames after both convolutions, each of which halves the number, rounding up."""
        half = (num_frames + 1) // 2
        return (half + 1) // 2


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time as summed shifts: XLA's grouped convolution is 10–30× slower on CPU."""

    kernel_size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        size, length = self.kernel_size, x.shape[1]
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0, out_axis=1)
        kernel = self.param("kernel", nn.with_logical_partitioning(init, (None, "embed")), (size, x.shape[-1]))
        kernel = kernel.astype(self.dtype)
        left = (size - 1) // 2
        padded = jnp.pad(x, ((0, 0), (left, size - 1 - left), (0, 0)))
        return sum(padded[:, i : i + length] * kernel[i] for i in range(size))


class FeedForwardModule(nn.Module):
    """Norm → widen → swish → narrow."""

    config: ConformerConfig
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        drop = nn.Dropout(self.config.dropout, deterministic=self.deterministic)
        y = LayerNorm(name="norm")(x)
        y = Dense(x.shape[-1] * self.config.ff_multiple, ("embed", "mlp"), True, self.dtype, name="up")(y)
        y = drop(nn.swish(y))
        return drop(Dense(x.shape[-1], ("mlp", "embed"), True, self.dtype, name="down")(y))


class ConvModule(nn.Module):
    """Norm → gated pointwise → depthwise over time → norm → swish → pointwise."""

    config: ConformerConfig
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        dim = x.shape[-1]
        y = LayerNorm(name="norm")(x)
        gate = Dense(dim, ("embed", "mlp"), True, self.dtype, name="gate")(y)
        y = Dense(dim, ("embed", "mlp"), True, self.dtype, name="up")(y) * nn.sigmoid(gate)
        y = Sequence(y, mask).masked().values  # the norm's bias made the padding non-zero, and the convolution reads it
        y = DepthwiseConv(self.config.kernel_size, self.dtype, name="depthwise")(y)
        y = nn.swish(LayerNorm(name="inner_norm")(y))
        y = Dense(dim, ("mlp", "embed"), True, self.dtype, name="down")(y)
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(y)


class ConformerBlock(nn.Module):
    """½ feed-forward, self-attention, convolution, ½ feed-forward, norm."""

    config: ConformerConfig
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], cache: None, positions: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], None]:
        arguments = {"config": self.config, "deterministic": self.deterministic, "dtype": self.dtype}
        x = x + 0.5 * FeedForwardModule(**arguments, name="ff_in")(x)
        heads = self.config.num_heads
        attention = Attention(
            num_heads=heads,
            num_kv_heads=heads,
            rope_base=self.config.rope_base,
            dtype=self.dtype,
            name="attention",
        )
        attention_mask = jnp.broadcast_to(mask[:, None, :], (*mask.shape, mask.shape[1]))
        y, _ = attention(LayerNorm(name="attention_norm")(x), positions, attention_mask)
        x = x + nn.Dropout(self.config.dropout, deterministic=self.deterministic)(y)
        x = x + ConvModule(**arguments, name="conv")(x, mask)
        x = x + 0.5 * FeedForwardModule(**arguments, name="ff_out")(x)
        x = Sequence(LayerNorm(name="norm")(x), mask).masked().values
        return constrain(x, "batch", "length", "embed"), None


@encoders.register(ConformerConfig)
class Conformer(SpeechEncoder):
    """Log-mel → subsampling by 4 → Conformer blocks. [B, S] → [B, ~T/4, D] for T log-mel frames."""

    config: ConformerConfig

    def frontend(
        self, samples: Shaped[Array, "B S"], num_samples: Int[Array, " B"], statistics: Statistics
    ) -> Sequence:
        """Normalised log-mel [B, T, F]."""
        return normalise(log_mel(samples, num_samples, self.config.features), statistics.of_encoder)

    @nn.compact
    def encode(self, inputs: Sequence, deterministic: bool = True) -> Sequence:
        """Normalised log-mel [B, T, F] → [B, ~T/4, D]."""
        if not deterministic:
            inputs = specaugment(self.make_rng("dropout"), inputs, self.config.specaugment)
        x = Subsampling(self.config.conv_channels, self.config.dim, self.dtype, name="subsampling")(inputs)
        positions = jnp.broadcast_to(jnp.arange(x.mask.shape[1]), x.mask.shape)
        layers = stack(ConformerBlock, self.config.num_layers, self.scan_layers, self.remat)(
            config=self.config, deterministic=deterministic, dtype=self.dtype
        )
        values, _ = layers(x.values, None, positions, x.mask)
        return Sequence(values, x.mask)

    def output_length(self, num_samples: Any) -> Any:
        """A quarter of the log-mel frames, rounded up."""
        return Subsampling.output_length(self.config.features.num_frames(num_samples))

    @property
    def width(self) -> int:
        """The model width."""
        return self.config.dim

    @property
    def sample_rate(self) -> int:
        """That of the features."""
        return self.config.features.sample_rate

    @property
    def measured_features(self) -> FeatureConfig:
        """The log-mel that it reads."""
        return self.config.features

    def flops(self, num_samples: int) -> float:
        """Forward model FLOPs of one row."""
        c, frames = self.config, self.config.features.num_frames(num_samples)
        half, out, dim = (frames + 1) // 2, Subsampling.output_length(frames), self.config.dim
        subsampling = half * 3 * c.features.num_mels * c.conv_channels + out * (3 * c.conv_channels * dim + dim * dim)
        feed_forwards = 2 * 2 * dim * dim * c.ff_multiple
        attention, convolution = 4 * dim * dim, 3 * dim * dim + c.kernel_size * dim
        pairs = 2 * out * out * dim  # scores, and the weighted sum of values
        return 2.0 * (subsampling + c.num_layers * (out * (feed_forwards + attention + convolution) + pairs))
