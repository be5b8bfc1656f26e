"""Text-LM pre-training of the decoder alone, also as a prefix LM."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spectron.config import Experiment, TextLMConfig
from spectron.cost.flops import Flops, head_product, lm_products
from spectron.data.order import BatchShape
from spectron.models.decoder import Decoder
from spectron.objectives import losses
from spectron.objectives.base import LOG_PROBABILITY, OBJECTIVES, Objective, shift_right
from spectron.types import Batch, Losses, Params, Statistics


@OBJECTIVES.register(TextLMConfig)
class TextLM(Objective):
    """Next-token cross-entropy on text. With prefix_tokens > 0 a random first part is bidirectional and unscored."""

    config: TextLMConfig
    parts = ("lm",)
    text_only = True
    validates = LOG_PROBABILITY
    main_metrics = ("text_lm", "text_lm_accuracy")

    def __init__(self, config: TextLMConfig, experiment: Experiment, statistics: Statistics | None) -> None:
        super().__init__(config, experiment, statistics)
        model = experiment.model
        self.chunk = model.logits_chunk
        self.lm = Decoder(
            model.lm, self.vocabulary.size, model.scan_layers, model.remat, dtype=jnp.dtype(model.compute_dtype)
        )

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh {"lm": …}."""
        tokens, mask = jnp.asarray(batch.text), jnp.asarray(batch.text_mask)
        zeros = jnp.zeros(tokens.shape[0], jnp.int32)
        return {"lm": self.lm.init(key, tokens, mask, zeros, method="score")["params"]}

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Terms "text_lm" (cross-entropy) and "text_lm_accuracy"."""
        tokens = shift_right(batch.text, self.vocabulary.sos_id)
        lengths = batch.text_mask.sum(axis=1)
        most = jnp.minimum(self.config.prefix_tokens, lengths - 1)
        prefix = jnp.floor(jax.random.uniform(key, lengths.shape) * (most + 1)).astype(jnp.int32)
        hidden = self.lm.apply({"params": params["lm"]}, tokens, batch.text_mask, prefix, method="hidden_states")
        # Inside the prefix the next token can be seen; its last position still predicts the first unseen one.
        unseen = jnp.arange(tokens.shape[1])[None, :] >= prefix[:, None] - 1
        mask = batch.text_loss_mask & unseen
        logits = functools.partial(self.lm.apply, {"params": params["lm"]}, method="logits")
        terms = losses.classification("text_lm", logits, self.chunk, hidden, batch.text, mask)
        return Losses(terms, {"text_lm": jnp.float32(1.0)})

    def validation(self, params: Params, batch: Batch) -> Array:
        """ln p of each text, read causally. float32 [B]."""
        tokens = shift_right(batch.text, self.vocabulary.sos_id)
        prefix = jnp.zeros(tokens.shape[0], jnp.int32)
        hidden = self.lm.apply({"params": params["lm"]}, tokens, batch.text_mask, prefix, method="hidden_states")
        logits = functools.partial(self.lm.apply, {"params": params["lm"]}, method="logits")
        return losses.log_probability(logits, hidden, batch.text, batch.text_mask)

    def flops(self, shape: BatchShape) -> Flops:
        """The LM and its head on every token."""
        lm = self.experiment.model.lm
        head = head_product(lm, self.vocabulary.size, shape.tokens, ())
        return (lm_products(lm, 0, shape.tokens, ()) + Flops((head,))).scaled(shape.rows)

    def positions(
        self, shape: BatchShape, num_samples: np.ndarray, prompt_samples: np.ndarray, num_tokens: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Tokens."""
        return num_tokens, shape.tokens
