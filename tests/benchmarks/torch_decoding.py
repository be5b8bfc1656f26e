"""Decoding with the PyTorch twin in a plain Python loop: text until every row has ended, then frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from benchmarks.torch_training import SOS, go_frames
from benchmarks.torch_twin import Twin, count_positions, prefix_lm_mask
from torch import Tensor

EOS = 1
Reader = Callable[[Tensor, Tensor], Tensor]  # (next vectors [B, D], rows that still run [B]) → hidden states [B, D]


class Spoken(NamedTuple):
    """As spectron.inference.decode.Decoded: text [B, L], frames [B, T, F] log-mel, num_frames [B]."""

    text: Tensor
    frames: Tensor
    num_frames: Tensor


def cached_reader(twin: Twin, prefix: Tensor, mask: Tensor, total: int) -> Reader:
    """Keys and values of `total` positions are kept; a step computes one position and looks at those before it."""
    c = twin.experiment.model.lm
    batch, size = mask.shape
    shape = (batch, c.num_kv_heads, total, c.dim // c.num_heads)
    cache = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(c.num_layers)]
    twin.lm(prefix, count_positions(mask), prefix_lm_mask(mask, torch.ones_like(mask)), cache)
    seen = torch.zeros(batch, total, dtype=torch.bool)
    seen[:, :size] = mask
    position, index = mask.sum(dim=1), size

    def read(x: Tensor, live: Tensor) -> Tensor:
        nonlocal position, index
        seen[:, index] = live
        hidden = twin.lm(x[:, None], position[:, None], seen[:, None, : index + 1], cache, index)
        position, index = position + live, index + 1
        return hidden[:, 0]

    return read


def uncached_reader(twin: Twin, prefix: Tensor, mask: Tensor, total: int) -> Reader:
    """Every step computes everything before it again."""
    del total
    size, x = mask.shape[1], prefix

    def read(new: Tensor, live: Tensor) -> Tensor:
        nonlocal x, mask
        x, mask = torch.cat([x, new[:, None]], dim=1), torch.cat([mask, live[:, None]], dim=1)
        inside = (torch.arange(mask.shape[1]) < size).expand(mask.shape)
        return twin.lm(x, count_positions(mask), prefix_lm_mask(mask, inside))[:, -1]

    return read


@torch.inference_mode()
def speak(
    twin: Twin, samples: Tensor, num_samples: Tensor, tokens: int, steps: int, make_reader: Callable[..., Reader]
) -> Spoken:
    """int16 prompts [B, S] → at most `tokens` words with eos and `steps` decoder steps of frames."""
    c = twin.experiment.model.frames
    prompt = twin.log_mel(samples, num_samples)
    prefix, mask = twin.prefix(*prompt)
    read = make_reader(twin, prefix, mask, prefix.shape[1] + tokens + steps)
    batch = len(samples)

    text = torch.zeros(batch, tokens, dtype=torch.long)
    token, done = torch.full((batch,), SOS), torch.zeros(batch, dtype=torch.bool)
    for i in range(tokens):
        live = ~done
        token = twin.lm.head(read(twin.lm.embedding(token), live)).argmax(dim=-1)
        text[:, i] = token.masked_fill(done, 0)
        done = done | (token == EOS)
        if done.all():
            break

    frames = torch.zeros(batch, steps, c.frames_per_step * prompt[0].shape[2])
    fed, done = go_frames(prompt, c.frames_per_step).flatten(1), torch.zeros(batch, dtype=torch.bool)
    num_frames = torch.zeros(batch, dtype=torch.long)
    for i in range(steps):
        live = ~done
        hidden = read(twin.prenet(fed), live)
        fed = twin.postnet(hidden)
        fires = twin.stop(hidden).sigmoid() > c.stop_threshold
        stops = live & fires.any(dim=1)
        frames[:, i] = fed.masked_fill(done[:, None], 0.0)
        num_frames += torch.where(stops, fires.int().argmax(dim=1) + 1, c.frames_per_step).masked_fill(done, 0)
        done = done | stops
        if done.all():
            break
    frames = frames.unflatten(2, (c.frames_per_step, -1)).flatten(1, 2)
    return Spoken(text, frames * twin.std + twin.mean, num_frames)
