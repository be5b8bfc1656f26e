"""Log-mel spectrograms from int16 samples, on the device, and their normalisation. Imports numpy and jax alone."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from spectron.audio.signal import frame, from_int16, hann
from spectron.config import FeatureConfig, check_settings
from spectron.types import Array, Sequence, Statistics, UserError, length_mask

# Slaney's mel scale (Auditory Toolbox, 1998): linear to 1 kHz, then 27 mels to each factor of 6.4.
_HZ_PER_MEL = 200 / 3
_KNEE_HZ = 1000.0
_KNEE_MEL = _KNEE_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Frequency in Hz → Slaney mels."""
    hz = np.asarray(hz, np.float64)
    above = _KNEE_MEL + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _LOG_STEP
    return np.where(hz < _KNEE_HZ, hz / _HZ_PER_MEL, above)


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """Slaney mels → frequency in Hz."""
    mel = np.asarray(mel, np.float64)
    return np.where(mel < _KNEE_MEL, mel * _HZ_PER_MEL, _KNEE_HZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))


@functools.lru_cache(maxsize=16)
def mel_filterbank(features: FeatureConfig) -> Float[np.ndarray, "N F"]:
    """Triangular filters of equal area, float32 [fft_size // 2 + 1, F], read-only.

    Raises UserError for impossible settings, and if a band holds no bin.
    """
    check_settings(features, "features")
    bins = np.arange(features.fft_size // 2 + 1) * features.sample_rate / features.fft_size
    edges = mel_to_hz(np.linspace(hz_to_mel(features.low_hz), hz_to_mel(features.high_hz), features.num_mels + 2))
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - low) / (centre - low)
    falling = (high - bins[:, None]) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    empty = np.flatnonzero(filters.max(axis=0) == 0)
    if empty.size:
        raise UserError(
            f"features.num_mels={features.num_mels} is too many for a transform of {features.fft_size} points: "
            f"{empty.size} bands hold no frequency; lower it, raise features.low_hz or widen features.window_seconds."
        )
    filters = filters.astype(np.float32)
    filters.flags.writeable = False
    return filters


def power_spectrum(samples: Float[Array, "B S"], features: FeatureConfig) -> Float[Array, "B T N"]:
    """Float samples [B, S] → power [B, S // hop, fft_size // 2 + 1] of centred, Hann-windowed frames."""
    frames = frame(samples, features.window, features.hop)
    if features.dft == "matmul":
        return _power_by_matmul(frames, features.fft_size)
    spectrum = jnp.fft.rfft(frames * jnp.asarray(hann(features.window), jnp.float32), n=features.fft_size)
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)


def _power_by_matmul(frames: Float[Array, "B T W"], fft_size: int) -> Float[Array, "B T N"]:
    # Power does not depend on the origin of time. Counted from the middle of the window (whose first value is zero),
    # samples n and window − n form a pair: half the products, and half the rounding error, so that log-mel is exact to
    # 1e-4.
    window = frames.shape[-1]
    left, right = frames[..., 1 : window // 2 + 1], frames[..., :0:-1][..., : (window - 1) // 2]
    right = jnp.pad(right, ((0, 0), (0, 0), (0, left.shape[-1] - right.shape[-1])))
    cos, sin = _half_dft_basis(window, fft_size)
    # HIGHEST: TPUs and GPUs would otherwise multiply in bfloat16 or tf32, and quiet bands would drown.
    real = jnp.matmul(left + right, cos, precision=jax.lax.Precision.HIGHEST)
    imaginary = jnp.matmul(left - right, sin, precision=jax.lax.Precision.HIGHEST)
    return jnp.square(real) + jnp.square(imaginary)


@functools.lru_cache(maxsize=4)
def _half_dft_basis(window: int, fft_size: int) -> tuple[Float[np.ndarray, "H N"], Float[np.ndarray, "H N"]]:
    """Windowed cosines and sines of samples 1 … window // 2 about the window's middle, float32 [window // 2, bins]."""
    index = np.arange(1, window // 2 + 1)
    angle = 2 * np.pi / fft_size * np.outer(index - window / 2, np.arange(fft_size // 2 + 1))
    weight = hann(window)[index, None]
    return (np.cos(angle) * weight).astype(np.float32), (np.sin(angle) * weight).astype(np.float32)


def log_mel(samples: Shaped[Array, "B S"], num_samples: Int[Array, " B"], features: FeatureConfig) -> Sequence:
    """Samples [B, S] (int16, or float in [−1, 1)) → natural log of mel power, Sequence float32 [B, S // hop, F].

    Row b has num_samples[b] // hop frames; frame t is centred on [t·hop, (t + 1)·hop). Samples past num_samples are
    read as silence. `features` is static under jit. By default 60,000 samples are 300 frames, as in the paper's
    published prompts (arXiv 2305.15255).
    """
    filters = jnp.asarray(mel_filterbank(features))  # first: it names an impossible setting
    samples = jnp.asarray(samples)
    num_samples = jnp.asarray(num_samples)
    real = length_mask(num_samples, samples.shape[1])
    signal = from_int16(jnp.where(real, samples, jnp.zeros((), samples.dtype)))
    power = power_spectrum(signal, features)
    mel = jnp.matmul(power, filters, precision=jax.lax.Precision.HIGHEST)
    values = jnp.log(jnp.maximum(mel, features.log_floor))
    return Sequence(values, length_mask(features.num_frames(num_samples), values.shape[1])).masked()


def normalise(seq: Sequence, stats: Statistics) -> Sequence:
    """Log-mel → zero mean and unit deviation; padding stays zero."""
    return Sequence((seq.values - stats.mean) / stats.std, seq.mask).masked()


def denormalise(values: Float[Array, "... F"], stats: Statistics) -> Float[Array, "... F"]:
    """The inverse of normalise, on values [..., F] without a mask."""
    return values * stats.std + stats.mean


def measure(log_mels: Iterable[Float[np.ndarray, "_ F"]], features: FeatureConfig) -> Statistics:
    """Mean and deviation (at least features.std_floor) over the frames of all log-mels [T, F], computed on the host.

    Raises UserError when there is no frame.
    """
    count, mean, scatter = 0, np.zeros(features.num_mels), np.zeros(features.num_mels)
    for each in log_mels:
        values = np.asarray(each, np.float64)
        if not len(values):
            continue
        # Chan's pairwise update: a sum of squares minus the squared sum would lose precision.
        total, shift = count + len(values), values.mean(axis=0) - mean
        scatter += np.square(values - values.mean(axis=0)).sum(axis=0) + np.square(shift) * count * len(values) / total
        mean, count = mean + shift * len(values) / total, total
    if not count:
        raise UserError("There is no frame to measure log-mel statistics on; check that the task has audio examples.")
    variance = scatter / count
    if not features.per_band:
        variance = np.full_like(mean, variance.mean() + mean.var())
        mean = np.full_like(mean, mean.mean())
    std = np.maximum(np.sqrt(variance), features.std_floor)
    return Statistics(mean.astype(np.float32), std.astype(np.float32))
