"""CTC training of the speech encoder on whole utterances."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spectron.config import CTCConfig, Experiment
from spectron.cost.flops import Flops, Product
from spectron.data.order import BatchShape
from spectron.models.encoder import check_sample_rate, make_encoder
from spectron.models.layers import Dense
from spectron.objectives import losses
from spectron.objectives.base import LABELS, OBJECTIVES, Objective
from spectron.types import Batch, Losses, Params, Sequence, Statistics


@OBJECTIVES.register(CTCConfig)
class CTC(Objective):
    """Encoder and a linear head over the vocabulary, whose padding id is the blank."""

    parts = ("encoder", "ctc_head")
    validates = LABELS
    main_metrics = ("ctc",)

    def __init__(self, config: CTCConfig, experiment: Experiment, statistics: Statistics | None) -> None:
        super().__init__(config, experiment, statistics)
        model = experiment.model
        dtype = jnp.dtype(model.compute_dtype)
        check_sample_rate(experiment)
        self.encoder = make_encoder(model)
        self.head = Dense(self.vocabulary.size, ("embed", "vocab"), use_bias=True, dtype=dtype, float32_output=True)

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh {"encoder": …, "ctc_head": …}."""
        samples, num_samples = jnp.asarray(batch.samples), jnp.asarray(batch.num_samples)
        encoder = self.encoder.init(key, samples, num_samples, self.measured)["params"]
        head = self.head.init(key, jnp.zeros((1, 1, self.encoder.width)))["params"]
        return {"encoder": encoder, "ctc_head": head}

    def logits(self, params: Params, samples: Array, num_samples: Array, key: Array | None = None) -> Sequence:
        """int16 samples [B, S] and their lengths → label logits per encoder frame.

        With a key, dropout and SpecAugment are on.
        """
        encoded = self.encoder.apply(
            {"params": params["encoder"]},
            jnp.asarray(samples),
            jnp.asarray(num_samples),
            self.measured,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        return Sequence(self.head.apply({"params": params["ctc_head"]}, encoded.values), encoded.mask)

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Term "ctc", per label, and the metric "ctc_unalignable", the share of rows that no alignment fits."""
        logits = self.logits(params, batch.samples, batch.num_samples, key if train else None)
        labels = batch.text_mask & (batch.text != self.vocabulary.eos_id)
        terms = losses.ctc(logits.values, logits.mask, batch.text, labels)
        return Losses(terms, {"ctc": jnp.float32(1.0)})

    def validation(self, params: Params, batch: Batch) -> Array:
        """The most likely label of every encoder frame, −1 in the padding. int32 [B, T]."""
        logits = self.logits(params, batch.samples, batch.num_samples)
        return jnp.where(logits.mask, logits.values.argmax(axis=-1), -1)

    def flops(self, shape: BatchShape) -> Flops:
        """Encoder and head on whole utterances."""
        head = 2.0 * self.encoder.width * self.vocabulary.size * self.encoder.output_length(shape.samples)
        encoder = Product("encoder", self.encoder.flops(shape.samples), "encoder", ("encoder",))
        return Flops((encoder, Product("vocabulary", head, "ctc_head", ("encoder",)))).scaled(shape.rows)

    def positions(
        self, shape: BatchShape, num_samples: np.ndarray, prompt_samples: np.ndarray, num_tokens: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Encoder frames."""
        return self.encoder.output_length(num_samples), self.encoder.output_length(shape.samples)
