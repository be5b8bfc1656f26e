"""Log-mels of many recordings at once, copy synthesis, and how far two spectrograms lie apart."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import jax
import numpy as np
from jaxtyping import Float, Int

from spectron.audio.features import log_mel
from spectron.audio.signal import to_int16
from spectron.audio.turns import turn
from spectron.audio.vocoder import griffin_lim_batch
from spectron.config import FeatureConfig
from spectron.types import Sequence, length_mask

_ROWS, _SECONDS = 32, 0.5  # ours: recordings per call, and the grid that lengths are rounded up to

_analyse = jax.jit(lambda samples, lengths, features: log_mel(samples, lengths, features).values, static_argnums=2)


def by_length(recordings: Seq[Int[np.ndarray, " S"]], rows: int = _ROWS) -> list[list[int]]:
    """The recordings' numbers in groups of at most `rows`, like lengths together: little padding is computed."""
    order = sorted(range(len(recordings)), key=lambda i: len(recordings[i]))
    return [order[start : start + rows] for start in range(0, len(order), rows)]


def log_mels(recordings: Seq[Int[np.ndarray, " S"]], features: FeatureConfig) -> list[Float[np.ndarray, "T F"]]:
    """int16 [S] each → log-mel [S // hop, F] each."""
    made: list[Float[np.ndarray, "T F"]] = [np.zeros((0, features.num_mels), np.float32)] * len(recordings)
    grid = max(1, round(_SECONDS / features.hop_seconds)) * features.hop
    for group in by_length(recordings):
        size = max(1, -(-len(recordings[group[-1]]) // grid)) * grid
        samples, lengths = np.zeros((_ROWS, size), np.int16), np.zeros(_ROWS, np.int32)
        for row, i in enumerate(group):
            lengths[row] = len(recordings[i])
            samples[row, : lengths[row]] = recordings[i]
        with turn():
            values = np.asarray(_analyse(samples, lengths, features))
        for row, i in enumerate(group):
            made[i] = values[row, : lengths[row] // features.hop]
    return made


def copy_synthesis(recordings: Seq[Int[np.ndarray, " S"]], features: FeatureConfig) -> list[Int[np.ndarray, " S"]]:
    """int16 [S] → log-mel → Griffin-Lim → int16: what a model without fault would sound like."""
    mels = log_mels(recordings, features)
    made: list[Int[np.ndarray, " S"]] = [np.zeros(0, np.int16)] * len(recordings)
    for group in by_length(recordings):
        lengths = np.asarray([len(mels[i]) for i in group])
        values = np.zeros((len(group), max(1, lengths.max()), features.num_mels), np.float32)
        for row, i in enumerate(group):
            values[row, : lengths[row]] = mels[i]
        mask = np.asarray(length_mask(lengths, values.shape[1]))
        audio = griffin_lim_batch(Sequence(values, mask), features)
        for row, i in enumerate(group):
            made[i] = np.asarray(to_int16(audio[row, : lengths[row] * features.hop]))
    return made


def distance(first: Float[np.ndarray, "T F"], second: Float[np.ndarray, "T2 F"]) -> float:
    """Mean absolute difference in nats along the best alignment in time (dynamic time warping); nan without frames."""
    if not len(first) or not len(second):
        return float("nan")
    import librosa  # here: slow to import

    costs = np.abs(first[:, None] - second[None]).mean(axis=-1)
    _, path = librosa.sequence.dtw(C=costs)
    return float(costs[path[:, 0], path[:, 1]].mean())
