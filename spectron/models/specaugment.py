"""SpecAugment (arXiv 1904.08779): random blocks of bands and of frames are set to zero, the features' mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from spectron.config import SpecAugmentConfig
from spectron.types import Sequence


def specaugment(key: Array, sequence: Sequence, config: SpecAugmentConfig) -> Sequence:
    """Mask random blocks of [B, T, F]; the size of a time block is a fraction of the row's real length."""
    batch, length, bands = sequence.values.shape
    freq_key, time_key = jax.random.split(key)
    full = jnp.full((batch,), bands)
    masked_bands = _blocks(freq_key, full, bands, config.num_freq_blocks, config.max_freq_fraction)
    masked_frames = _blocks(time_key, sequence.lengths, length, config.num_time_blocks, config.max_time_fraction)
    keep = ~(masked_bands[:, None, :] | masked_frames[:, :, None])
    return Sequence(jnp.where(keep, sequence.values, 0.0), sequence.mask).masked()


def _blocks(key: Array, lengths: Array, size: int, count: int, fraction: float) -> Array:
    """bool [B, size]: the union of `count` blocks, of uniform lengths in [0, fraction · length] and uniform starts."""
    size_key, place_key = jax.random.split(key)
    shape = (lengths.shape[0], count)
    widths = jnp.floor(jax.random.uniform(size_key, shape) * (fraction * lengths[:, None] + 1))
    starts = jnp.floor(jax.random.uniform(place_key, shape) * (lengths[:, None] - widths + 1))
    place = jnp.arange(size)
    inside = (place >= starts[..., None]) & (place < (starts + widths)[..., None])
    return inside.any(axis=1)
