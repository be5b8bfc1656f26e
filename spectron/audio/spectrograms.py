"""Log-mels of many recordings at once, on the device, and the distance between two spectrograms."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import jax
import numpy as np
from jaxtyping import Float, Int

from spectron.audio.features import log_mel
from spectron.audio.fft_slots import fft_slot
from spectron.config import FeatureConfig
from spectron.utils.environment import load_librosa
from spectron.utils.padding import batches_by_length, round_up

ROWS, _SECONDS = 32, 0.5  # ours: recordings per call, and the grid that lengths are rounded up to

_analyse = jax.jit(lambda samples, lengths, features: log_mel(samples, lengths, features).values, static_argnums=2)


def log_mels(recordings: Seq[Int[np.ndarray, " _"]], features: FeatureConfig) -> list[Float[np.ndarray, "_ F"]]:
    """int16 [S] each → log-mel [S // hop, F] each."""
    spectrograms: list[Float[np.ndarray, "_ F"]] = [np.zeros((0, features.num_mels), np.float32)] * len(recordings)
    grid = max(1, round(_SECONDS / features.hop_seconds)) * features.hop
    for batch in batches_by_length(recordings, ROWS, lambda longest: round_up(longest, grid)):
        with fft_slot():
            values = np.asarray(_analyse(batch.values, batch.lengths, features))
        for row, i in enumerate(batch.indices):
            spectrograms[i] = values[row, : batch.lengths[row] // features.hop]
    return spectrograms


def distance(first: Float[np.ndarray, "T F"], second: Float[np.ndarray, "T2 F"]) -> float:
    """Mean absolute difference in nats along the best alignment in time (dynamic time warping); nan without frames."""
    if not len(first) or not len(second):
        return float("nan")
    librosa = load_librosa()

    costs = np.abs(first[:, None] - second[None]).mean(axis=-1)
    _, path = librosa.sequence.dtw(C=costs)
    return float(costs[path[:, 0], path[:, 1]].mean())
