"""Copy synthesis: recordings → log-mel → vocoder, the best that the vocoder can do with a model's frames."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from jaxtyping import Int

from spectron.audio.signal import to_int16
from spectron.audio.spectrograms import by_length, log_mels
from spectron.config import FeatureConfig
from spectron.types import Sequence, length_mask
from spectron.vocoders.griffin_lim import griffin_lim_batch


def copy_synthesis(recordings: Seq[Int[np.ndarray, " S"]], features: FeatureConfig) -> list[Int[np.ndarray, " S"]]:
    """int16 [S] → log-mel → Griffin-Lim → int16: how a model that predicts every frame exactly would sound."""
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
