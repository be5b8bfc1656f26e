"""Vocoder: log-mel spectrogram → waveform."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from spectron.config import FeatureConfig
from spectron.types import UserError


class Vocoder(Protocol):
    """Turns log-mel spectrograms of one FeatureConfig into waveforms, on the host. Several threads may call it.

    Derive from this class and implement `synthesise`; implement `synthesise_chunk` too if the vocoder can speak before
    the spectrogram is complete.
    """

    features: FeatureConfig  # the spectrograms it takes

    @property
    def facts(self) -> dict[str, Any]:
        """Name and settings, for JSON: recorded with every answer."""
        return {"name": type(self).__name__}

    def synthesise(self, log_mel: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " S"]:
        """Log-mel [T, F], not normalised → float32 samples [T · hop], full scale ±1. T may be 0."""
        ...

    def synthesise_chunk(self, log_mel: Float[np.ndarray, "T F"], start: int, ended: bool) -> Float[np.ndarray, " S"]:
        """The samples from frame `start` on that no later frame can change; all of them once the answer has `ended`.

        log_mel: the first T frames of the answer, from its beginning. start: the frames whose samples the earlier
        chunks held. Returns whole frames of samples; joined, the chunks equal `synthesise` of the whole. This default
        returns nothing until the answer has ended.
        """
        if not ended:
            return np.zeros(0, np.float32)
        return self.synthesise(log_mel)[start * self.features.hop :]


def check_vocoder(vocoder: Vocoder, features: FeatureConfig) -> None:
    """Raise UserError for a vocoder of other spectrograms than the model's."""
    wanted, given = dataclasses.asdict(features), dataclasses.asdict(vocoder.features)
    # "dft" chooses between two ways to compute the same numbers.
    different = [name for name in wanted if given[name] != wanted[name] and name != "dft"]
    if different:
        values = ", ".join(f"{name} {given[name]} instead of {wanted[name]}" for name in different)
        raise UserError(
            f"The vocoder {vocoder.facts['name']!r} takes other spectrograms than the model's ({values}); give one for "
            f"the model's features."
        )
