"""The interface of training objectives: initialisation, loss, cost, positions and validation."""

from __future__ import annotations

import abc
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from spectron.config import Experiment, ObjectiveConfig, Registry, StreamConfig
from spectron.cost.flops import Flops, trained_names
from spectron.data.order import BatchShape
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Batch, Losses, Params, Statistics, UserError

LABELS, LOG_PROBABILITY = "labels", "log_probability"  # what Objective.validation may return


class Objective(abc.ABC):
    """A training objective. The training loop, `spectron compile` and the pages use this interface alone; none of them
    depends on which objective it is.

    parts: the top-level parameter names that it reads and trains. text_only: its batches need no speech. validates:
    what `validation` returns, LABELS or LOG_PROBABILITY; "" without a validation metric. main_metrics: the names of
    loss terms that a progress line shows, the most important first; "loss" is the total.
    """

    parts: ClassVar[tuple[str, ...]]
    text_only: ClassVar[bool] = False
    validates: ClassVar[str] = ""
    main_metrics: ClassVar[tuple[str, ...]] = ("loss",)

    def __init__(self, config: ObjectiveConfig, experiment: Experiment, statistics: Statistics | None) -> None:
        """statistics may be None if only shapes and costs are asked for."""
        self.config = config
        self.experiment = experiment
        self.statistics = statistics
        self.features = experiment.features
        self.vocabulary = make_vocabulary(experiment.data.vocabulary)

    @property
    def name(self) -> str:
        """The kind of its config: names of losses and keys of initialisation derive from it."""
        return self.config.kind

    @property
    def measured(self) -> Statistics:
        """The log-mel statistics, if spectrograms are computed."""
        assert self.statistics is not None, "an objective made without statistics only knows shapes and costs"
        return self.statistics

    @abc.abstractmethod
    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh parameters {part: …}, boxed with their logical axes."""

    @abc.abstractmethod
    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Named losses of one batch; `train` turns dropout and SpecAugment on."""

    @abc.abstractmethod
    def flops(self, shape: BatchShape) -> Flops:
        """Forward model FLOPs of a batch of this shape, by formula (cost/flops.py)."""

    @abc.abstractmethod
    def positions(
        self, shape: BatchShape, num_samples: np.ndarray, prompt_samples: np.ndarray, num_tokens: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Real positions (encoder frames, tokens, decoder steps) of rows with that many samples, prompt samples and
        tokens, int [N] each, and the positions that are computed for every row in a batch of this shape."""

    def validation(self, params: Params, batch: Batch) -> Array:
        """Each row's label of every encoder frame, int32 [B, T] with −1 in the padding (LABELS), or ln p of its text,
        float32 [B] (LOG_PROBABILITY). Raises UserError if the objective has neither."""
        raise UserError(f"evaluate_on: the objective {self.name!r} has no validation metric; leave it empty.")

    def batch_positions(self, batch: Batch) -> tuple[int, int]:
        """(real, computed) positions of a batch of numpy arrays."""
        rows, size = batch.samples.shape
        shape = BatchShape(rows, size, batch.text_mask.shape[1])
        num_tokens = np.asarray(batch.text_mask).sum(axis=1)
        real, computed = self.positions(
            shape, np.asarray(batch.num_samples), np.asarray(batch.prompt_samples), num_tokens
        )
        return int(real.sum()), rows * computed


OBJECTIVES: Registry[type[Objective]] = Registry("objective")


def make_objective(config: ObjectiveConfig, experiment: Experiment, statistics: Statistics | None) -> Objective:
    """The objective that a config chooses."""
    return OBJECTIVES[config](config, experiment, statistics)


def make_objectives(
    streams: Sequence[StreamConfig], experiment: Experiment, statistics: Statistics | None = None
) -> list[Objective]:
    """The objective of every stream, in order."""
    return [make_objective(stream.objective, experiment, statistics) for stream in streams]


def main_metrics(streams: Sequence[StreamConfig], most: int) -> list[str]:
    """At most `most` names of the main metrics of a stage: the streams' first ones, then their second ones, ….

    Where two streams have a term of the same name, it is logged for each under its stream's name.
    """
    each = [OBJECTIVES[stream.objective].main_metrics for stream in streams]
    seen = Counter(name for names in each for name in names if name != "loss")
    named = [
        [name if seen[name] < 2 else term_name(stream, index, name) for name in names]
        for index, (stream, names) in enumerate(zip(streams, each, strict=True))
    ]
    ranked = [name for rank in itertools.zip_longest(*named) for name in rank if name is not None]
    return list(dict.fromkeys(ranked))[:most]


def term_name(stream: StreamConfig, index: int, name: str) -> str:
    """The name of a loss term that several streams have, of stream number `index`: "text_lm_1/text"."""
    return f"{stream.key}_{index}/{name}"


def step_flops(objectives: Sequence[Objective], shapes: Sequence[BatchShape], trained: Params | None = None) -> Flops:
    """Model FLOPs of a training step: all objectives' batches, of these shapes, together.

    trained: the parameters that are trained, abstract or real; None trains all.
    """
    total = sum((o.flops(shape) for o, shape in zip(objectives, shapes, strict=True)), Flops())
    return total if trained is None else total.with_trained(trained_names(trained))


def shift_right(text: Array, sos: int) -> Array:
    """The decoder's input for the targets `text`: sos, then all but the last token. int [B, L]."""
    return jnp.concatenate([jnp.full_like(text[:, :1], sos), text[:, :-1]], axis=1)
