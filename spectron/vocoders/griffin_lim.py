"""The Griffin-Lim vocoder: multiplicative updates invert the mel filters, fast Griffin-Lim finds the phases."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from spectron.audio.features import mel_filterbank
from spectron.audio.fft_slots import fft_slot
from spectron.audio.signal import frame, hann, overlap_add
from spectron.config import FeatureConfig
from spectron.types import Array, Sequence, length_mask
from spectron.utils import programs
from spectron.vocoders.base import Vocoder

_MEL_STEPS = 10  # ours: leaves 0.001 log units on average (0.02 in the worst 1 %) on spoken digits
_TINY = 1e-10  # ours: far below any power that log_floor lets through
_MOMENTUM = 0.99  # fast Griffin-Lim (Perraudin et al. 2013); of 0.7, 0.99 and 1.3 the best here
ITERATIONS = 32  # ours
FRAMES = 64  # ours: lengths are rounded up to a multiple, so that many lengths share one compiled program


@jax.default_matmul_precision("highest")  # in bfloat16 quiet bands would be lost
def invert_mel(log_mel: Float[Array, "... T F"], features: FeatureConfig) -> Float[Array, "... T N"]:
    """Log-mel [..., T, F] → the magnitudes [..., T, fft_size // 2 + 1], at least 0, whose log-mel is closest."""
    filters = jnp.asarray(mel_filterbank(features))
    mel = jnp.exp(log_mel)
    # Multiplicative updates for the Itakura-Saito distance (Févotte et al. 2009): it compares ratios, as log-mel does,
    # so quiet bands beside loud ones converge as fast; least squares leaves those wrong by factors of hundreds.
    # Powers start from the mel spread back evenly; bins under no filter (below low_hz, above high_hz) stay zero.
    power = _ratio(_ratio(mel, filters.sum(axis=0)) @ filters.T, filters.sum(axis=1))

    def step(_: Array, power: Array) -> Array:
        now = jnp.maximum(power @ filters, _TINY)
        return power * _ratio((mel / jnp.square(now)) @ filters.T, (1 / now) @ filters.T)

    return jnp.sqrt(jax.lax.fori_loop(0, _MEL_STEPS, step, power))


def _ratio(top: Array, bottom: Array) -> Array:
    return top / jnp.maximum(bottom, _TINY)


@dataclasses.dataclass(frozen=True)
class GriffinLim(Vocoder):
    """The Griffin-Lim vocoder. seed: of the phases that the iterations start from."""

    features: FeatureConfig
    iterations: int = ITERATIONS
    seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """See Vocoder."""
        return {"name": "GriffinLim", "iterations": self.iterations, "seed": self.seed}

    def synthesise(self, log_mel: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " S"]:
        """See Vocoder."""
        return griffin_lim(log_mel, self.features, self.iterations, self.seed)

    def synthesise_chunk(self, log_mel: Float[np.ndarray, "T F"], start: int, ended: bool) -> Float[np.ndarray, " S"]:
        """See Vocoder. start: a multiple of FRAMES, as it is after chunks of this vocoder."""
        return griffin_lim_part(log_mel, self.features, start, ended, self.iterations, self.seed)


def griffin_lim(
    log_mel: Float[np.ndarray, "T F"], features: FeatureConfig, iterations: int = ITERATIONS, seed: int = 0
) -> Float[np.ndarray, " S"]:
    """Log-mel [T, F], not normalised → float32 audio [T · hop] on the host. Samples may exceed full scale (±1)."""
    values = np.asarray(log_mel, np.float32)[None]
    return griffin_lim_batch(Sequence(values, np.ones(values.shape[:2], bool)), features, iterations, seed)[0]


def griffin_lim_batch(
    log_mels: Sequence, features: FeatureConfig, iterations: int = ITERATIONS, seed: int = 0
) -> Float[np.ndarray, "B S"]:
    """Log-mels [B, T, F], not normalised, real frames first → float32 audio [B, T · hop] on the host.

    The padding's audio is zero; a row's audio depends neither on the other rows nor on the padding.
    """
    lengths = np.asarray(log_mels.mask).sum(axis=1)
    rows = [np.asarray(v[:n], np.float32) for v, n in zip(np.asarray(log_mels.values), lengths, strict=True)]
    audio = np.zeros((len(rows), log_mels.mask.shape[1] * features.hop), np.float32)

    def fill(row: int) -> None:
        steps = lengths[row]
        padded = np.zeros((1, -(-steps // FRAMES) * FRAMES, features.num_mels), np.float32)
        padded[0, :steps] = rows[row]
        with fft_slot():
            given = padded, lengths[row : row + 1], np.int32(seed), np.int32(iterations)
            made = np.asarray(programs.call(invert, given, {"features": features}, like=0))
        audio[row, : steps * features.hop] = made[0, : steps * features.hop]

    # One thread for each row: XLA's transforms use one core, and one row's spectra fit into its cache.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, np.flatnonzero(lengths).tolist()))
    return audio


def griffin_lim_part(
    log_mel: Float[np.ndarray, "T F"],
    features: FeatureConfig,
    start: int = 0,
    ended: bool = True,
    iterations: int = ITERATIONS,
    seed: int = 0,
) -> Float[np.ndarray, " S"]:
    """The samples of `griffin_lim` from frame `start` on that no later frame can change; all of them if it has `ended`.

    log_mel: the first T frames of a longer spectrogram. start: a multiple of FRAMES; a part also ends at one.
    """
    reach = (-(-features.window // features.hop) - 1) * (iterations + 1)
    total = len(log_mel)
    end = total if ended else max(total - reach, start) // FRAMES * FRAMES
    if end <= start:
        return np.zeros(0, np.float32)
    first = max(start - reach, 0) // FRAMES * FRAMES
    last = total if ended else -(-(end + reach) // FRAMES) * FRAMES
    given = np.zeros((1, -(-(last - first) // FRAMES) * FRAMES, features.num_mels), np.float32)
    known = np.asarray(log_mel[first:last], np.float32)
    given[0, : len(known)] = known
    with fft_slot():
        made = np.asarray(invert(given, np.asarray([len(known)]), seed, iterations, features, first))
    return made[0, (start - first) * features.hop : (end - first) * features.hop]


@functools.partial(jax.jit, static_argnames="features")
def invert(
    log_mel: Float[Array, "B T F"],
    lengths: Array,
    seed: Array,
    iterations: Array,
    features: FeatureConfig,
    first: Array = 0,
) -> Float[Array, "B S"]:
    """Log-mels [B, T, F] → float32 audio [B, T · hop], T a multiple of FRAMES; the jitted part of the functions above.

    first: the index of the first frame, which decides the phases that the iterations start from.
    """
    steps, window = log_mel.shape[1], jnp.asarray(hann(features.window), jnp.float32)
    real = length_mask(lengths, steps)[..., None]
    # In blocks, so that a frame's result is the same to the bit whatever the number of frames.
    blocks = jnp.where(real, log_mel, 0.0).reshape(-1, FRAMES, log_mel.shape[2])
    inverted = jax.lax.map(functools.partial(invert_mel, features=features), blocks)
    magnitude = jnp.where(real, inverted.reshape(*log_mel.shape[:2], -1), 0.0)
    # Least-squares inverse STFT. Padding has no weight, or the end of a row would fade in a batch.
    weight = overlap_add(real * jnp.square(window), features.hop)
    inside = length_mask(lengths * features.hop, steps * features.hop)
    scale = jnp.where(inside, 1 / jnp.maximum(weight, 1e-8), 0.0)

    def to_signal(spectrum: Array) -> Array:
        frames = jnp.fft.irfft(spectrum, n=features.fft_size)[..., : features.window]
        return overlap_add(frames * window, features.hop) * scale

    def step(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        spectrum, before = carry
        frames = frame(to_signal(spectrum), features.window, features.hop)
        rebuilt = jnp.fft.rfft(frames * window, n=features.fft_size)
        ahead = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * before
        # Written out: |z| of a complex z guards against overflow and takes as long as the transform.
        norm = jax.lax.rsqrt(jnp.maximum(jnp.square(ahead.real) + jnp.square(ahead.imag), 1e-20))
        return ahead * (magnitude * norm), rebuilt

    spectrum = magnitude * _first_phases(seed, magnitude.shape[1:], first)
    spectrum, _ = jax.lax.fori_loop(0, iterations, step, (spectrum, jnp.zeros_like(spectrum)))
    return to_signal(spectrum)


def _first_phases(seed: Array, shape: tuple[Any, ...], first: Array) -> Array:
    # A key per frame, so that a frame's phases do not depend on how many frames the batch has.
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(first + jnp.arange(shape[0]))
    angles = jax.vmap(lambda key: jax.random.uniform(key, shape[1:], maxval=2 * jnp.pi))(keys)
    return jax.lax.complex(jnp.cos(angles), jnp.sin(angles))
