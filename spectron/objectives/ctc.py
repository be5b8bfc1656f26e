"""CTC training of the speech encoder on whole utterances."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spectron.audio.features import log_mel, normalise
from spectron.config import CTCConfig, Experiment
from spectron.cost.flops import Flops, encoder_flops
from spectron.data.order import BatchShape
from spectron.models.conformer import Conformer
from spectron.models.layers import Dense
from spectron.objectives import losses
from spectron.objectives.base import LABELS, OBJECTIVES, Objective
from spectron.types import Batch, Losses, Params, Sequence, Statistics


@OBJECTIVES.register(CTCConfig)
class CTC(Objective):
    """Encoder and a linear head over the vocabulary, whose padding id is the blank."""

    parts = ("encoder", "ctc_head")
    validates = LABELS

    def __init__(self, config: CTCConfig, experiment: Experiment, statistics: Statistics | None) -> None:
        super().__init__(config, experiment, statistics)
        model = experiment.model
        dtype = jnp.dtype(model.compute_dtype)
        self.encoder = Conformer(model.encoder, model.scan_layers, model.remat, dtype)
        self.head = Dense(self.vocabulary.size, ("embed", "vocab"), use_bias=True, dtype=dtype)

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh {"encoder": …, "ctc_head": …}."""
        encoder = self.encoder.init(key, self.mel(batch))["params"]
        head = self.head.init(key, jnp.zeros((1, 1, self.encoder.config.dim)))["params"]
        return {"encoder": encoder, "ctc_head": head}

    def mel(self, batch: Batch) -> Sequence:
        """Normalised log-mel of the whole utterance."""
        return normalise(log_mel(batch.samples, batch.num_samples, self.features), self.measured)

    def logits(self, params: Params, mel: Sequence, key: Array | None = None) -> Sequence:
        """Label logits per encoder frame; with a key, dropout and SpecAugment are on."""
        rngs = None if key is None else {"dropout": key}
        encoded = self.encoder.apply({"params": params["encoder"]}, mel, deterministic=key is None, rngs=rngs)
        return Sequence(self.head.apply({"params": params["ctc_head"]}, encoded.values), encoded.mask)

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Term "ctc", per label."""
        logits = self.logits(params, self.mel(batch), key if train else None)
        labels = batch.text_mask & (batch.text != self.vocabulary.eos_id)
        term = losses.ctc(logits.values, logits.mask, batch.text, labels)
        return Losses({"ctc": term}, {"ctc": jnp.float32(1.0)})

    def validation(self, params: Params, batch: Batch) -> Array:
        """The most likely label of every encoder frame, −1 in the padding. int32 [B, T]."""
        logits = self.logits(params, self.mel(batch))
        return jnp.where(logits.mask, logits.values.argmax(axis=-1), -1)

    def flops(self, shape: BatchShape) -> Flops:
        """Encoder and head on whole utterances."""
        frames, encoder = self.features.num_frames(shape.samples), self.experiment.model.encoder
        head = 2.0 * encoder.dim * self.vocabulary.size * Conformer.output_length(frames)
        return Flops(encoder=encoder_flops(encoder, self.features.num_mels, frames), vocabulary=head).scaled(shape.rows)

    def positions(
        self, shape: BatchShape, num_samples: np.ndarray, prompt_samples: np.ndarray, num_tokens: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Encoder frames."""
        real = Conformer.output_length(self.features.num_frames(num_samples))
        return real, Conformer.output_length(self.features.num_frames(shape.samples))
