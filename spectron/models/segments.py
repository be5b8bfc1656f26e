"""A decoder's input sequence as segments: positions and the attention mask are derived here, and nowhere else.

Spectron is [prefix, bidirectional] [text, causal] [frames, causal].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from spectron.types import Array


@dataclasses.dataclass(frozen=True)
class Segment:
    """One part of a decoder's input.

    bidirectional: whether the elements of this segment attend to each other in both directions; a bool [B, T] array
    specifies it for each element. All other attention is causal.
    """

    values: Float[Array, "B T D"]
    mask: Bool[Array, "B T"]
    bidirectional: bool | Bool[Array, "B T"] = False


@dataclasses.dataclass(frozen=True)
class Joined:
    """Segments in one sequence of length N, with everything a decoder needs to read it.

    values: [B, N, D], zero in the padding. mask: bool [B, N], True = real. positions: int32 [B, N], counting real
    elements only, from 0. attention_mask: bool [B, N, N], which elements (last axis) each element attends to.
    sizes: the length of each segment.
    bidirectional_prefix: the number of leading elements that attend to each other in both directions, if it is the same
    for all rows and everything else is causal (fused attention kernels need it); None otherwise.
    """

    values: Float[Array, "B N D"]
    mask: Bool[Array, "B N"]
    positions: Int[Array, "B N"]
    attention_mask: Bool[Array, "B N N"]
    sizes: tuple[Any, ...]  # ints, or symbolic sizes of an export
    bidirectional_prefix: Any

    def split(self, values: Float[Array, "B N D"]) -> list[Float[Array, "B _ D"]]:
        """Values of the joined sequence, such as hidden states → those of each segment, in order."""
        ends = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes))]
        return [values[:, end - size : end] for end, size in zip(ends, self.sizes, strict=True)]


def join(segments: Sequence[Segment]) -> Joined:
    """Concatenate segments along time. Padding may be anywhere; no element attends to it."""
    mask = jnp.concatenate([segment.mask for segment in segments], axis=1)
    values = [jnp.where(s.mask[..., None], s.values, jnp.zeros((), s.values.dtype)) for s in segments]
    sizes = tuple(segment.mask.shape[1] for segment in segments)
    blocks, start = [], 0
    for segment, size in zip(segments, sizes, strict=True):
        if segment.bidirectional is not False:
            inside = jnp.broadcast_to(segment.bidirectional, segment.mask.shape)
            blocks.append(jnp.pad(inside, ((0, 0), (start, sum(sizes) - start - size))))
        start += size
    return Joined(
        values=jnp.concatenate(values, axis=1),
        mask=mask,
        positions=count_positions(mask),
        attention_mask=prefix_lm_mask(mask, *blocks),
        sizes=sizes,
        bidirectional_prefix=_bidirectional_prefix(segments, sizes),
    )


def _bidirectional_prefix(segments: Sequence[Segment], sizes: Sequence[Any]) -> Any:
    if any(segment.bidirectional is not False for segment in segments[1:]):
        return None
    first = segments[0].bidirectional
    return (sizes[0] if first else 0) if isinstance(first, bool) else None


def count_positions(mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Positions count real elements only, from 0; padding repeats the position before it."""
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def prefix_lm_mask(mask: Bool[Array, "B T"], *blocks: Bool[Array, "B T"]) -> Bool[Array, "B T T"]:
    """Attention mask [B, query, key]: causal, except that the elements of each block attend to each other in both
    directions; no query attends to padding."""
    order = jnp.arange(mask.shape[1])
    allowed = order[None, :, None] >= order[None, None, :]
    for block in blocks:
        allowed = allowed | (block[:, :, None] & block[:, None, :])
    return allowed & mask[:, None, :]
