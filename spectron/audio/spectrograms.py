"""Log-mel spectrograms of many recordings, computed on the device, and the distance between two spectrograms."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import jax
import numpy as np
from jaxtyping import Float, Int

from spectron.audio.features import log_mel
from spectron.audio.fft_slots import fft_slot
from spectron.config import FeatureConfig

_BATCH, _GRID_SECONDS = 32, 0.5  # ours: recordings per call, and the grid that lengths are rounded up to

_batch_log_mel = jax.jit(
    lambda samples, lengths, features: log_mel(samples, lengths, features).values, static_argnums=2
)


def by_length(recordings: Seq[Int[np.ndarray, " _"]], rows: int = _BATCH) -> list[list[int]]:
    """Indices of the recordings, sorted by length, in groups of at most `rows`: little padding is computed."""
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i]))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def log_mels(recordings: Seq[Int[np.ndarray, " _"]], features: FeatureConfig) -> list[Float[np.ndarray, "_ F"]]:
    """int16 [S] each → log-mel [S // hop, F] each."""
    spectrograms = [np.zeros((0, features.num_mels), np.float32)] * len(recordings)
    grid = max(1, round(_GRID_SECONDS / features.hop_seconds)) * features.hop
    for group in by_length(recordings):
        size = max(1, -(-len(recordings[group[-1]]) // grid)) * grid
        samples = np.zeros((_BATCH, size), np.int16)
        lengths = np.zeros(_BATCH, np.int32)
        for row, i in enumerate(group):
            lengths[row] = len(recordings[i])
            samples[row, : lengths[row]] = recordings[i]
        with fft_slot():
            values = np.asarray(_batch_log_mel(samples, lengths, features))
        for row, i in enumerate(group):
            spectrograms[i] = values[row, : lengths[row] // features.hop]
    return spectrograms


def distance(first: Float[np.ndarray, "T F"], second: Float[np.ndarray, "T2 F"]) -> float:
    """Mean absolute difference in nats along the best alignment in time (dynamic time warping); NaN without frames."""
    if not len(first) or not len(second):
        return float("nan")
    import librosa  # here: slow to import

    costs = np.abs(first[:, None] - second[None]).mean(axis=-1)
    _, path = librosa.sequence.dtw(C=costs)
    return float(costs[path[:, 0], path[:, 1]].mean())
