"""Spectron in plain PyTorch, eager and float32: for tests of parity and as the peer of benchmarks.

Modules have our names, so that parameters are copied by name. PyTorch's fused operations (attention, convolution,
norms, stft) are used where they exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectron.audio.features import mel_filterbank
from spectron.config import ConformerConfig, Experiment, JointConfig, LMConfig, SpecAugmentConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Statistics

Masked = tuple[Tensor, Tensor]  # values [B, T, …], mask bool [B, T]
Cache = list[tuple[Tensor, Tensor]]  # per layer keys and values [B, kv heads, S, head width]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """int [B] → bool [B, size], True for the first `lengths` places."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zeros where the mask is False."""
    return values.masked_fill(~mask[..., None], 0.0)


def rotation(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, 1, T, width / 2] of rotary positions."""
    rates = base ** (-torch.arange(width // 2, device=positions.device) / (width // 2))
    angles = positions[:, None, :, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of [B, H, T, K]."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; `attention_mask` bool [B, 1, T, S]."""

    def __init__(self, dim: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.width = dim // heads
        self.grouped = heads != kv_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, kv_heads * self.width, bias=False)
        self.value = nn.Linear(dim, kv_heads * self.width, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], attention_mask: Tensor, cache: Any = None, index: int = 0
    ) -> Tensor:
        def heads(flat: Tensor) -> Tensor:
            return flat.unflatten(-1, (-1, self.width)).transpose(1, 2)

        query, key = rotate(heads(self.query(x)), rotary), rotate(heads(self.key(x)), rotary)
        value = heads(self.value(x))
        if cache is not None:
            end = index + x.shape[1]
            cache[0][:, :, index:end], cache[1][:, :, index:end] = key, value
            key, value = cache[0][:, :, :end], cache[1][:, :, :end]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, enable_gqa=self.grouped)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Conv(nn.Module):
    """Three frames, stride 2. The weight is kept 2-D [out, in · 3] because torch.optim.Muon takes matrices alone."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs * 3).normal_(std=(inputs * 3) ** -0.5))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(1, (-1, 3))
        return F.conv1d(x.transpose(1, 2), weight, self.bias, stride=2, padding=1).transpose(1, 2)


class Subsampling(nn.Module):
    """[B, T, F] → [B, ⌈⌈T/2⌉/2⌉, D]."""

    def __init__(self, bands: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv_0, self.conv_1 = Conv(bands, channels), Conv(channels, dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Masked:
        x = masked(x, mask)
        for conv in (self.conv_0, self.conv_1):
            mask = mask[:, ::2]
            x = masked(F.gelu(conv(x), approximate="tanh"), mask)
        return masked(self.project(x), mask), mask


class FeedForward(nn.Module):
    """Norm → widen → swish → narrow."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.down(self.drop(F.silu(self.up(self.norm(x))))))


class ConvModule(nn.Module):
    """Norm → gated pointwise → depthwise → norm → swish → pointwise."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.inner_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.gate, self.up, self.down = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim, bias=False)
        self.padding = ((kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x)
        y = masked(self.up(y) * self.gate(y).sigmoid(), mask)
        y = self.depthwise(F.pad(y.transpose(1, 2), self.padding)).transpose(1, 2)
        return self.drop(self.down(F.silu(self.inner_norm(y))))


class ConformerBlock(nn.Module):
    """½ feed-forward, attention, convolution, ½ feed-forward, norm."""

    def __init__(self, c: ConformerConfig) -> None:
        super().__init__()
        self.ff_in = FeedForward(c.dim, c.dim * c.ff_multiple, c.dropout)
        self.attention_norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.attention = Attention(c.dim, c.num_heads, c.num_heads)
        self.conv = ConvModule(c.dim, c.kernel_size, c.dropout)
        self.ff_out = FeedForward(c.dim, c.dim * c.ff_multiple, c.dropout)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor], attention_mask: Tensor) -> Tensor:
        x = x + 0.5 * self.ff_in(x)
        x = x + self.drop(self.attention(self.attention_norm(x), rotary, attention_mask))
        x = x + self.conv(x, mask)
        return masked(self.norm(x + 0.5 * self.ff_out(x)), mask)


class Encoder(nn.Module):
    """Conformer: normalised log-mel [B, T, F] → [B, ~T/4, D]."""

    def __init__(self, c: ConformerConfig, bands: int) -> None:
        super().__init__()
        self.config = c
        self.subsampling = Subsampling(bands, c.conv_channels, c.dim)
        self.layers = nn.ModuleList(ConformerBlock(c) for _ in range(c.num_layers))

    def forward(self, x: Tensor, mask: Tensor) -> Masked:
        if self.training:
            x = specaugment(x, mask, self.config.specaugment)
        x, mask = self.subsampling(x, mask)
        c = self.config
        rotary = rotation(torch.arange(x.shape[1], device=x.device)[None], c.dim // c.num_heads, c.rope_base)
        for layer in self.layers:
            x = layer(x, mask, rotary, mask[:, None, None])
        return x, mask


def specaugment(x: Tensor, mask: Tensor, c: SpecAugmentConfig) -> Tensor:
    """Blocks of bands and of frames set to zero."""

    def blocks(lengths: Tensor, size: int, count: int, fraction: float) -> Tensor:
        random = {"size": (len(lengths), count), "device": x.device}
        widths = (torch.rand(**random) * (fraction * lengths[:, None] + 1)).floor()
        starts = (torch.rand(**random) * (lengths[:, None] - widths + 1)).floor()
        place = torch.arange(size, device=x.device)
        return ((place >= starts[..., None]) & (place < (starts + widths)[..., None])).any(dim=1)

    width = torch.full((len(x),), x.shape[2], device=x.device)
    bands = blocks(width, x.shape[2], c.num_freq_blocks, c.max_freq_fraction)
    frames = blocks(mask.sum(dim=1), x.shape[1], c.num_time_blocks, c.max_time_fraction)
    return x.masked_fill(bands[:, None] | frames[..., None], 0.0)


class GatedFeedForward(nn.Module):
    """(gelu(x W_gate) · x W_up) W_down."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


class DecoderBlock(nn.Module):
    """x + attention(norm x), x + feed-forward(norm x)."""

    def __init__(self, c: LMConfig) -> None:
        super().__init__()
        self.attention_norm, self.ff_norm = nn.RMSNorm(c.dim, eps=1e-6), nn.RMSNorm(c.dim, eps=1e-6)
        self.attention = Attention(c.dim, c.num_heads, c.num_kv_heads)
        self.ff = GatedFeedForward(c.dim, c.ff_dim)
        self.drop = nn.Dropout(c.dropout)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], attention_mask: Tensor, cache: Any = None, index: int = 0
    ) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), rotary, attention_mask, cache, index))
        return x + self.drop(self.ff(self.ff_norm(x)))


class TiedHead(nn.Module):
    """Logits by the embedding itself, which has unit deviation; it stays the owner of its weight."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.owner = (embedding,)  # a tuple hides it: one parameter has one name

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * x.shape[-1] ** -0.5, self.owner[0].weight)


class Decoder(nn.Module):
    """Vectors → hidden states; a cache is written in place at `index`."""

    def __init__(self, c: LMConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = c
        self.embedding = nn.Embedding(vocabulary, c.dim)
        self.layers = nn.ModuleList(DecoderBlock(c) for _ in range(c.num_layers))
        self.final_norm = nn.RMSNorm(c.dim, eps=1e-6)
        tied = c.tie_embeddings
        self.head = TiedHead(self.embedding) if tied else nn.Linear(c.dim, vocabulary, bias=False)

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor, cache: Cache | None = None, index: int = 0
    ) -> Tensor:
        rotary = rotation(positions, self.config.dim // self.config.num_heads, self.config.rope_base)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotary, attention_mask[:, None], None if cache is None else cache[i], index)
        return self.final_norm(x)

    def score(self, tokens: Tensor, mask: Tensor, prefix: Tensor) -> Tensor:
        """Logits of text alone, the first `prefix` tokens seeing each other both ways."""
        attention_mask = prefix_lm_mask(mask, length_mask(prefix, mask.shape[1]))
        return self.head(self(masked(self.embedding(tokens), mask), count_positions(mask), attention_mask))


def prefix_lm_mask(mask: Tensor, prefix: Tensor) -> Tensor:
    """bool [B, T, T]: causal, the prefix both ways, padding seen by nobody."""
    size = mask.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=mask.device).tril()
    return (causal | (prefix[:, :, None] & prefix[:, None, :])) & mask[:, None, :]


def count_positions(mask: Tensor) -> Tensor:
    """Positions count real elements, from 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


class PreNet(nn.Module):
    """Frames → LM width through a bottleneck with dropout (in decoding too, where `speaking_dropout` is set)."""

    def __init__(self, inputs: int, bottleneck: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inputs, bottleneck), nn.Linear(bottleneck, dim)
        self.dropout, self.speaking_dropout = dropout, False

    def forward(self, frames: Tensor) -> Tensor:
        x = F.relu(self.down(frames))
        return self.up(F.dropout(x, self.dropout, self.training or self.speaking_dropout))


class PostNet(nn.Module):
    """LM width → the step's frames."""

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(dim, dim), nn.Linear(dim, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.hidden(x), approximate="tanh"))


class Twin(nn.Module):
    """The joint model. Parameters are ours by name; the features' constants are buffers."""

    def __init__(self, experiment: Experiment, statistics: Statistics, loss: JointConfig | None = None) -> None:
        super().__init__()
        self.experiment, self.loss = experiment, loss or experiment.stages[-1].streams[0].objective
        model, bands = experiment.model, experiment.features.num_mels
        step, dim = model.frames.frames_per_step, model.lm.dim
        self.encoder = Encoder(model.encoder, bands)
        self.connector = nn.Linear(model.encoder.dim, dim)
        self.lm = Decoder(model.lm, make_vocabulary(experiment.data.vocabulary).size)
        self.prenet = PreNet(step * bands, model.frames.bottleneck, dim, model.frames.prenet_dropout)
        self.postnet = PostNet(dim, step * bands)
        self.stop = nn.Linear(dim, step)
        constants = {
            "filters": torch.tensor(mel_filterbank(experiment.features)),
            "hann": torch.hann_window(experiment.features.window),
            "mean": torch.tensor(np.asarray(statistics.mean)),
            "std": torch.tensor(np.asarray(statistics.std)),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def log_mel(self, samples: Tensor, num_samples: Tensor) -> Masked:
        """int16 [B, S] → normalised log-mel [B, S // hop, F] and its mask; frames centred on their steps."""
        c = self.experiment.features
        size, count = samples.shape[1], samples.shape[1] // c.hop
        signal = samples.masked_fill(~length_mask(num_samples, size), 0).float() / 32768
        left = c.fft_size // 2 - c.hop // 2
        signal = F.pad(signal, (left, (count - 1) * c.hop + c.fft_size - left - size))
        spectrum = torch.stft(signal, c.fft_size, c.hop, c.window, self.hann, center=False, return_complex=True)
        mel = torch.view_as_real(spectrum).square().sum(dim=-1).transpose(1, 2) @ self.filters
        mask = length_mask(num_samples // c.hop, count)
        return masked((mel.clamp(min=c.log_floor).log() - self.mean) / self.std, mask), mask

    def prefix(self, prompt: Tensor, mask: Tensor) -> Masked:
        """Normalised log-mel of the prompt → vectors the LM reads."""
        encoded, mask = self.encoder(prompt, mask)
        return masked(self.connector(encoded), mask), mask

    def forward(self, prompt: Masked, tokens: Masked, steps: Masked) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Teacher forcing: text logits [B, L, V], frames [B, T, F], stop [B, T]; for alignment, logits of speech."""
        prefix, prefix_mask = self.prefix(*prompt)
        text = masked(self.lm.embedding(tokens[0]), tokens[1])
        fed = masked(self.prenet(steps[0]), steps[1])
        mask = torch.cat([prefix_mask, tokens[1], steps[1]], dim=1)
        size, length = prefix.shape[1], text.shape[1]
        inside = (torch.arange(mask.shape[1], device=mask.device) < size).expand(mask.shape)
        x = torch.cat([prefix, text, fed], dim=1)
        hidden = self.lm(x, count_positions(mask), prefix_lm_mask(mask, inside))
        spoken = hidden[:, size + length :]
        frames = self.postnet(spoken).unflatten(-1, (-1, self.experiment.features.num_mels)).flatten(1, 2)
        written = self.lm.head(hidden[:, size : size + length])
        said = self.lm.head(spoken) if self.loss.alignment_weight else None
        return written, frames, self.stop(spoken).flatten(1), said
