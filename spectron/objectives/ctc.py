"""CTC pre-training of the speech encoder on whole utterances."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from spectron.audio.features import log_mel, normalise
from spectron.config import Experiment, StreamConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.models.conformer import Conformer
from spectron.models.layers import Dense
from spectron.objectives import losses
from spectron.types import Batch, Losses, Params, Sequence, Statistics


class CTC:
    """Encoder and a linear head over the vocabulary, whose padding id is the blank."""

    name = "ctc"
    parts = ("encoder", "ctc_head")

    def __init__(self, experiment: Experiment, statistics: Statistics, stream: StreamConfig) -> None:
        model = experiment.model
        dtype = jnp.dtype(model.compute_dtype)
        self.features, self.statistics = experiment.features, statistics
        self.vocabulary = make_vocabulary(experiment.data.vocabulary)
        self.encoder = Conformer(model.encoder, model.scan_layers, model.remat, dtype)
        self.head = Dense(self.vocabulary.size, ("embed", "vocab"), use_bias=True, dtype=dtype)

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh {"encoder": …, "ctc_head": …}."""
        encoder = self.encoder.init(key, self.mel(batch))["params"]
        head = self.head.init(key, jnp.zeros((1, 1, self.encoder.config.dim)))["params"]
        return {"encoder": encoder, "ctc_head": head}

    def mel(self, batch: Batch) -> Sequence:
        """Normalised log-mel of the whole utterance."""
        return normalise(log_mel(batch.samples, batch.num_samples, self.features), self.statistics)

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
