"""Conformer speech encoder (arXiv 2005.08100) with rotary positions; LayerNorm stands where the paper has BatchNorm."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.config import EncoderConfig
from spectron.models.attention import Attention
from spectron.models.layers import Dense, LayerNorm, stack
from spectron.models.specaugment import specaugment
from spectron.parallel.sharding import constrain
from spectron.types import Sequence


class Subsampling(nn.Module):
    """Two convolutions over time of three frames and stride 2: [B, T, F] → [B, ⌈⌈T/2⌉/2⌉, D].

    One-dimensional, bands as channels, so that each is one matrix product: 2-D convolutions of few channels took half
    of the encoder's time on CPU (ours).
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
            # Rows −1, 0, 1 around every second frame; the last frame of an odd length has nothing behind it.
            padded = jnp.pad(x, ((0, 0), (1, 2 * length + 1 - x.shape[1]), (0, 0)))
            taps = jnp.concatenate([padded[:, i : i + 2 * length : 2] for i in range(3)], axis=-1)
            x = nn.gelu(Dense(features, axes, use_bias=True, dtype=self.dtype, name=name)(taps))
            sequence = Sequence(x, sequence.mask[:, ::2]).masked()
        x = Dense(self.dim, (None, "embed"), use_bias=True, dtype=self.dtype, name="project")(sequence.values)
        return Sequence(x, sequence.mask).masked()


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

    config: EncoderConfig
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

    config: EncoderConfig
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        dim = x.shape[-1]
        y = LayerNorm(name="norm")(x)
        gate = Dense(dim, ("embed", "mlp"), True, self.dtype, name="gate")(y)
        y = Dense(dim, ("embed", "mlp"), True, self.dtype, name="up")(y) * nn.sigmoid(gate)
        y = Sequence(y, mask).masked().values  # the norm's bias has filled the padding, which the kernel would reach
        y = DepthwiseConv(self.config.kernel_size, self.dtype, name="depthwise")(y)
        y = nn.swish(LayerNorm(name="inner_norm")(y))
        y = Dense(dim, ("mlp", "embed"), True, self.dtype, name="down")(y)
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(y)


class ConformerBlock(nn.Module):
    """½ feed-forward, self-attention, convolution, ½ feed-forward, norm."""

    config: EncoderConfig
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


class Conformer(nn.Module):
    """Normalised log-mel [B, T, F] → [B, ~T/4, D]. SpecAugment and dropout are on unless `deterministic`."""

    config: EncoderConfig
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mel: Sequence, deterministic: bool = True) -> Sequence:
        if not deterministic:
            mel = specaugment(self.make_rng("dropout"), mel, self.config.specaugment)
        x = Subsampling(self.config.conv_channels, self.config.dim, self.dtype, name="subsampling")(mel)
        positions = jnp.broadcast_to(jnp.arange(x.mask.shape[1]), x.mask.shape)
        layers = stack(ConformerBlock, self.config.num_layers, self.scan_layers, self.remat)(
            config=self.config, deterministic=deterministic, dtype=self.dtype
        )
        values, _ = layers(x.values, None, positions, x.mask)
        return Sequence(values, x.mask)

    @staticmethod
    def output_length(num_frames: Any) -> Any:
        """Encoder frames for `num_frames` spectrogram frames: each convolution halves, rounding up."""
        half = (num_frames + 1) // 2
        return (half + 1) // 2
