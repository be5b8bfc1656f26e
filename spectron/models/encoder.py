"""The speech encoder's interface: int16 samples in, vectors out, with the frontend inside.

To add an encoder: derive its config from EncoderConfig with a kind of its own, derive the module from SpeechEncoder,
and register it with @encoders.register(ItsConfig).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from spectron.config import Experiment, FeatureConfig, ModelConfig, Registry
from spectron.types import Array, Sequence, Statistics, UserError


class SpeechEncoder(nn.Module):
    """Recordings → vectors [B, T, D] at the encoder's own rate.

    A subclass implements `frontend`, `encode`, `output_length`, `width` and `flops`, and `sample_rate` and
    `measured_features` if the defaults do not fit.
    """

    config: Any
    scan_layers: bool = True
    remat: str = "none"
    dtype: Any = jnp.float32

    def __call__(
        self,
        samples: Shaped[Array, "B S"],
        num_samples: Int[Array, " B"],
        statistics: Statistics,
        deterministic: bool = True,
    ) -> Sequence:
        """int16 samples and the length of each row → vectors. SpecAugment and dropout are on unless `deterministic`."""
        return self.encode(self.frontend(samples, num_samples, statistics), deterministic)

    def frontend(
        self, samples: Shaped[Array, "B S"], num_samples: Int[Array, " B"], statistics: Statistics
    ) -> Sequence:
        """int16 samples → what the network reads, such as normalised log-mel. No parameters."""
        raise NotImplementedError

    def encode(self, inputs: Sequence, deterministic: bool = True) -> Sequence:
        """The network: the frontend's output → vectors [B, T, D]."""
        raise NotImplementedError

    def output_length(self, num_samples: Any) -> Any:
        """Number of vectors for `num_samples` samples: ints, integer arrays or symbolic sizes."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        raise NotImplementedError

    def flops(self, num_samples: int) -> float:
        """Forward model FLOPs of one row (cost/flops.py says what counts)."""
        raise NotImplementedError

    @property
    def sample_rate(self) -> int:
        """Samples per second that the frontend expects."""
        return 16_000

    @property
    def measured_features(self) -> FeatureConfig | None:
        """The log-mel features whose mean and deviation the frontend normalises by; None: it needs no statistics."""
        return None


encoders: Registry[type[SpeechEncoder]] = Registry("speech encoder")


def make_encoder(model: ModelConfig) -> SpeechEncoder:
    """The encoder that the config chooses."""
    return encoders[model.encoder](
        config=model.encoder,
        scan_layers=model.scan_layers,
        remat=model.remat,
        dtype=jnp.dtype(model.compute_dtype),
    )


def check_sample_rate(experiment: Experiment) -> None:
    """Raise UserError if the encoder and the predicted spectrogram use different sample rates."""
    ours, target = make_encoder(experiment.model).sample_rate, experiment.features.sample_rate
    if ours != target:
        raise UserError(
            f"model.encoder reads {ours} samples per second and features.sample_rate is {target}; set both to one rate."
        )


def encoder_features(experiment: Experiment) -> FeatureConfig | None:
    """The features whose statistics the encoder needs besides those of the predicted spectrogram.

    None: it needs none, or has the same features.
    """
    features = make_encoder(experiment.model).measured_features
    return None if features == experiment.features else features


def unit_statistics(experiment: Experiment) -> Statistics:
    """Statistics that change nothing, of the right shapes: mean 0 and deviation 1."""

    def unit(features: FeatureConfig) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
        return np.zeros(features.num_mels, np.float32), np.ones(features.num_mels, np.float32)

    own = encoder_features(experiment)
    return Statistics(*unit(experiment.features), encoder=None if own is None else Statistics(*unit(own)))
