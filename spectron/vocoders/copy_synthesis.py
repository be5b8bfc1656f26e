"""Copy synthesis: recordings → log-mel → vocoder, the best that the vocoder can do with a model's frames."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
from jaxtyping import Int

from spectron.audio.signal import to_int16
from spectron.audio.spectrograms import ROWS, log_mels
from spectron.config import FeatureConfig
from spectron.types import Sequence, length_mask
from spectron.utils.padding import batches_by_length
from spectron.vocoders.griffin_lim import griffin_lim_batch


def copy_synthesis(recordings: Seq[Int[np.ndarray, " S"]], features: FeatureConfig) -> list[Int[np.ndarray, " S"]]:
    """int16 [S] → log-mel → Griffin-Lim → int16: how a model that predicts every frame exactly would sound."""
    mels = log_mels(recordings, features)
    made: list[Int[np.ndarray, " S"]] = [np.zeros(0, np.int16)] * len(recordings)
    for batch in batches_by_length(mels, ROWS, lambda longest: max(1, longest), np.float32):
        values, lengths = batch.values[: len(batch.indices)], batch.lengths[: len(batch.indices)]
        audio = griffin_lim_batch(Sequence(values, np.asarray(length_mask(lengths, values.shape[1]))), features)
        for row, i in enumerate(batch.indices):
            made[i] = np.asarray(to_int16(audio[row, : lengths[row] * features.hop]))
    return made
