"""Text-LM pre-training of the decoder alone, also as a prefix LM."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from spectron.config import Experiment, StreamConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.models.decoder import Decoder
from spectron.objectives import losses
from spectron.types import Batch, Losses, Params, Statistics


class TextLM:
    """Next-token cross-entropy on text. With prefix_tokens > 0 a random first part is bidirectional and unscored."""

    name = "text_lm"
    parts = ("lm",)

    def __init__(self, experiment: Experiment, statistics: Statistics, stream: StreamConfig) -> None:
        model = experiment.model
        vocabulary = make_vocabulary(experiment.data.vocabulary)
        self.sos = vocabulary.sos_id
        self.stream, self.chunk = stream, model.logits_chunk
        self.lm = Decoder(
            model.lm, vocabulary.size, model.scan_layers, model.remat, dtype=jnp.dtype(model.compute_dtype)
        )

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh {"lm": …}."""
        tokens, mask = jnp.asarray(batch.text), jnp.asarray(batch.text_mask)
        zeros = jnp.zeros(tokens.shape[0], jnp.int32)
        return {"lm": self.lm.init(key, tokens, mask, zeros, method="score")["params"]}

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Terms "text" (cross-entropy) and "text_accuracy"."""
        tokens = shift_right(batch.text, self.sos)
        lengths = batch.text_mask.sum(axis=1)
        most = jnp.minimum(self.stream.prefix_tokens, lengths - 1)
        prefix = jnp.floor(jax.random.uniform(key, lengths.shape) * (most + 1)).astype(jnp.int32)
        variables = {"params": params["lm"]}
        hidden = self.lm.apply(variables, tokens, batch.text_mask, prefix, method="read")
        # Inside the prefix the next token can be seen; its last position still predicts the first unseen one.
        unseen = jnp.arange(tokens.shape[1])[None, :] >= prefix[:, None] - 1
        mask = batch.text_loss_mask & unseen
        logits = functools.partial(self.lm.apply, variables, method="logits")
        terms = losses.classification("text_lm", logits, self.chunk, hidden, batch.text, mask)
        return Losses(terms, {"text_lm": jnp.float32(1.0)})


def shift_right(text: Array, sos: int) -> Array:
    """What the decoder reads to write `text`: sos, then all but the last token. int [B, L]."""
    return jnp.concatenate([jnp.full_like(text[:, :1], sos), text[:, :-1]], axis=1)
