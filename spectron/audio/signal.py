"""Sample formats, and signal ↔ overlapping frames, for arrays on the host and on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from spectron.types import Array

_FULL_SCALE = 32768.0  # int16: −32768 is −1.0, so the round trip through float32 is exact


def from_int16(samples: Shaped[Array, "*shape"]) -> Float[Array, "*shape"]:
    """int16 [...] → float32 in [−1, 1); floats pass as float32. numpy in, numpy out; jax in, jax out."""
    library = jnp if isinstance(samples, jax.Array) else np
    samples = library.asarray(samples)
    if library.issubdtype(samples.dtype, library.floating):
        return samples.astype(library.float32)
    return samples.astype(library.float32) / np.float32(_FULL_SCALE)


def to_int16(samples: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """Float [...] in [−1, 1) → int16, rounded and clipped."""
    library = jnp if isinstance(samples, jax.Array) else np
    scaled = library.round(library.clip(library.asarray(samples), -1, 1) * _FULL_SCALE)
    return library.minimum(scaled, _FULL_SCALE - 1).astype(library.int16)


def hann(window: int) -> Float[np.ndarray, " W"]:
    """The periodic Hann window, float64 [window]."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)


def first_sample(window: int, hop: int) -> int:
    """The sample at which frame 0 begins. Frame t spans `window` samples from t·hop + first_sample, around its step."""
    return hop // 2 - window // 2


def frame(samples: Float[Array, "B S"], window: int, hop: int) -> Float[Array, "B T W"]:
    """[B, S] → the T = S // hop centred frames [B, T, window]; the signal is zero-padded at both ends."""
    size, steps = samples.shape[1], samples.shape[1] // hop
    per_window = -(-window // hop)
    padded_size = (steps + per_window - 1) * hop
    left = -first_sample(window, hop)
    # lax.pad also crops (negative widths), which a hop wider than the window needs.
    padded = jax.lax.pad(samples, jnp.zeros((), samples.dtype), ((0, 0, 0), (left, padded_size - left - size, 0)))
    # Concatenated slices of whole steps in place of a gather, which is slow on CPU and TPU.
    chunks = padded.reshape(samples.shape[0], steps + per_window - 1, hop)
    frames = jnp.concatenate([chunks[:, i : i + steps] for i in range(per_window)], axis=-1)
    return frames[..., :window]


def overlap_add(frames: Float[Array, "B T W"], hop: int) -> Float[Array, "B S"]:
    """The transpose of `frame`: [B, T, window] → sums [B, T·hop]."""
    batch, steps, window = frames.shape
    per_window = -(-window // hop)
    whole = jnp.pad(frames, ((0, 0), (0, 0), (0, per_window * hop - window)))
    chunks = whole.reshape(batch, steps, per_window, hop)
    total = jnp.zeros((batch, steps + per_window - 1, hop), frames.dtype)
    for i in range(per_window):
        total = total + jnp.pad(chunks[:, :, i], ((0, 0), (i, per_window - 1 - i), (0, 0)))
    left = -first_sample(window, hop)
    flat = total.reshape(batch, (steps + per_window - 1) * hop)
    return jax.lax.pad(flat, jnp.zeros((), flat.dtype), ((0, 0, 0), (-left, steps * hop + left - flat.shape[1], 0)))
