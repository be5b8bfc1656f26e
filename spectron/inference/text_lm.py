"""The text decoder of a checkpoint as a causal language model: scores and completes texts, without a speech prefix."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import Experiment, TextLMConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.models.decoder import empty_cache
from spectron.objectives.text_lm import TextLM
from spectron.types import Batch, Params
from spectron.utils.padding import PaddedBatch, batches_by_length

ROWS = 8  # ours: texts scored together
SHORTEST = 16  # ours: tokens of the smallest padded length; each power of two above is compiled once


class TextDecoder:
    """The part `lm` of a checkpoint. Raises UserError if it has none."""

    def __init__(self, checkpoint: Checkpoint):
        self._params = jax.device_put(checkpoint.load(("lm",))["lm"])
        self._experiment = checkpoint.experiment
        self._vocabulary = make_vocabulary(checkpoint.experiment.data.vocabulary)

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p, tokens) of each text; words outside the vocabulary are scored as its unknown token."""
        encoded = [self._vocabulary.encode(text) for text in texts]
        scores: list[tuple[float, int]] = [(0.0, 0)] * len(texts)
        for batch in _batches(encoded):
            sums = jax.device_get(_log_probs(self._params, batch.values, batch.lengths, experiment=self._experiment))
            for row, i in enumerate(batch.indices):
                scores[i] = float(sums[row]), len(encoded[i])
        return scores

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy continuations up to eos or max_tokens."""
        encoded = [self._vocabulary.encode(prompt) for prompt in prompts]
        texts = [""] * len(prompts)
        for batch in _batches(encoded, max_tokens):
            ids = jax.device_get(_complete(self._params, batch.values, batch.lengths, experiment=self._experiment))
            for row, i in enumerate(batch.indices):
                start = len(encoded[i])
                texts[i] = self._vocabulary.decode(ids[row, start : start + max_tokens].tolist()).strip()
        return texts


def _batches(encoded: Sequence[Sequence[int]], extra: int = 0) -> Iterator[PaddedBatch]:
    """Batches of texts, padded to a power of two plus `extra` tokens."""
    return batches_by_length(encoded, ROWS, lambda longest: _power_of_two(longest) + extra, np.int32)


def _power_of_two(size: int) -> int:
    return max(SHORTEST, 1 << max(size - 1, 0).bit_length())


@functools.partial(jax.jit, static_argnames=("experiment",))
def _log_probs(params: Params, text: Any, lengths: Any, *, experiment: Experiment) -> Any:
    """Σ ln p of the first `lengths` tokens of each row of int32 [B, L], float32 [B]."""
    mask, zeros = jnp.arange(text.shape[1])[None, :] < lengths[:, None], jnp.zeros(text.shape[0], jnp.int32)
    batch = Batch(
        samples=jnp.zeros((text.shape[0], 0), jnp.int16),
        num_samples=zeros,
        prompt_samples=zeros,
        text=text,
        text_mask=mask,
        text_loss_mask=mask,
        token_ends=text,
    )
    return TextLM(TextLMConfig(), experiment, None).validation({"lm": params}, batch)


@functools.partial(jax.jit, static_argnames=("experiment",))
def _complete(params: Params, text: Any, lengths: Any, *, experiment: Experiment) -> Any:
    """int32 [B, L] whose first `lengths` tokens are given → the rest filled in greedily."""
    objective = TextLM(TextLMConfig(), experiment, None)
    lm, sos = objective.lm, objective.vocabulary.sos_id
    rows, size = text.shape
    dtype, scan = jnp.dtype(experiment.model.compute_dtype), experiment.model.scan_layers
    cache = empty_cache(experiment.model.lm, rows, size, dtype, scan)

    def advance(i: Any, state: Any) -> Any:
        text, cache = state
        token = jnp.where(i > 0, text[:, jnp.maximum(i - 1, 0)], sos)
        embedded = lm.apply({"params": params}, token[:, None], method="embed")
        positions = jnp.full((rows, 1), i)
        hidden, cache = lm.apply({"params": params}, embedded, positions, None, cache)
        logits = lm.apply({"params": params}, hidden, method="logits")
        best = jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)
        return text.at[:, i].set(jnp.where(i < lengths, text[:, i], best)), cache

    return jax.lax.fori_loop(0, size, advance, (text, cache))[0]
