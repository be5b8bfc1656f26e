"""How likely a model finds recordings.

A model of tokens has a likelihood by construction. Spectron predicts spectrogram frames by regression; its likelihood
(ours) is that of the density whose negative logarithm equals the first term of its reconstruction loss up to the
constant ln Z: L_s, summed over frames and bands. λ, L_f and L_t are not used: differences of frames are not frames.

- A recording x is a prompt x_p, its first seconds but at most half of it, and the rest x_c; y is its text: the given
  one, or what the model writes when it hears x_p.
- frames = ln p(x_c | x_p, y): every band of every frame of x_c, normalised as the model's features are, lies d away
  from what the model predicts from all frames before it, with the density exp(−|d| − d²) / Z, Z = √π e^¼ erfc(½).
- text = ln p(y | x_p), eos included.

Pre-net dropout is off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectron.config import Experiment, JointConfig
from spectron.data.buckets import samples_per_row
from spectron.data.fields import to_batch
from spectron.data.order import BatchShape
from spectron.data.vocabulary import encode_target
from spectron.inference.api import Spectron
from spectron.objectives.joint import Joint
from spectron.objectives.losses import log_probability
from spectron.types import Batch, Example, Params, Statistics

LOG_Z = math.log(math.sqrt(math.pi) * math.exp(0.25) * math.erfc(0.5))  # ∫ exp(−|d| − d²) dd
PROMPT_SECONDS = 1.0  # ours: of a recording of a word, half is left to score


class Likelihood(NamedTuple):
    """Of one recording: ln p of its frames and of its text in nats, and how many frames and tokens they are."""

    frames: float
    num_frames: int
    text: float
    tokens: int

    @property
    def per_frame(self) -> float:
        """ln p of frames per frame."""
        return self.frames / max(self.num_frames, 1)

    @property
    def per_token(self) -> float:
        """ln p of text per token."""
        return self.text / max(self.tokens, 1)


@functools.partial(jax.jit, static_argnames="experiment")
def _score(
    params: Params, statistics: Statistics, batch: Batch, *, experiment: Experiment
) -> tuple[Float[Array, " B"], Int[Array, " B"], Float[Array, " B"]]:
    """A batch → ln p of frames, their number, ln p of text, each [B]."""
    objective = Joint(JointConfig(), experiment, statistics)
    inputs, continuation = objective.inputs_and_target(batch)
    out = objective.model.apply({"params": params}, **inputs._asdict())
    difference = jnp.abs(continuation.values - out.frames)
    each = -(difference + jnp.square(difference)).sum(axis=-1) - experiment.features.num_mels * LOG_Z
    spelled = log_probability(functools.partial(objective.logits, params), out.text_hidden, batch.text, batch.text_mask)
    return jnp.where(continuation.mask, each, 0.0).sum(axis=1), continuation.mask.sum(axis=1), spelled


def log_likelihood(
    generator: Spectron,
    recordings: Sequence[Int[np.ndarray, " S"]],
    prompt_seconds: float = PROMPT_SECONDS,
    texts: Sequence[str] | None = None,
    batch_size: int = 8,
) -> list[Likelihood]:
    """int16 [S] at the model's sample rate each → its likelihood, as the module defines it.

    texts: None takes what the model writes. The end of a recording longer than the model was trained for is not scored.
    """
    likelihoods = []
    for first in range(0, len(recordings), batch_size):
        chunk = list(recordings[first : first + batch_size])
        given = None if texts is None else texts[first : first + batch_size]
        likelihoods += _score_batch(generator, chunk, prompt_seconds, given, batch_size)
    return likelihoods


def _score_batch(
    generator: Spectron,
    recordings: list[Int[np.ndarray, " S"]],
    prompt_seconds: float,
    texts: Sequence[str] | None,
    rows: int,
) -> list[Likelihood]:
    experiment, rate = generator.experiment, generator.features.sample_rate
    assert generator.statistics is not None
    longest = round(min(prompt_seconds, experiment.data.max_prompt_seconds) * rate)
    prompts = [min(longest, len(x) // 2) for x in recordings]
    if texts is None:
        heard = [x[:size] for x, size in zip(recordings, prompts, strict=True)]
        texts = [_shortened(text, generator) for text in generator.generate_text(heard, rows)]
    most = round(experiment.data.max_continuation_seconds * rate)
    examples = [
        Example(x[: size + most], size, text, str(i), "")
        for i, (x, size, text) in enumerate(zip(recordings, prompts, texts, strict=True))
    ]
    empty = Example(np.zeros(0, np.int16), 0, "", "", "")  # every batch runs the same program
    size = samples_per_row(experiment.data, experiment.features)
    shape = BatchShape(rows, max(size, longest + most), experiment.data.max_tokens)
    batch = to_batch(
        [*examples, *[empty] * (rows - len(examples))],
        experiment.data,
        generator.features,
        generator.vocabulary,
        shape=shape,
    )
    frames, counts, spelled = jax.device_get(
        _score(generator.params, generator.statistics, batch, experiment=experiment)
    )
    tokens = np.asarray(batch.text_mask).sum(axis=1)
    return [
        Likelihood(float(frames[i]), int(counts[i]), float(spelled[i]), int(tokens[i])) for i in range(len(recordings))
    ]


def _shortened(text: str, generator: Spectron) -> str:
    """Without its last words if a decoded text takes more tokens than max_tokens when it is encoded again."""
    words = text.split()
    while words and len(encode_target(generator.vocabulary, " ".join(words))[0]) > generator.experiment.data.max_tokens:
        words.pop()
    return " ".join(words)
