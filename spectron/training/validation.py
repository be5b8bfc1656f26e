"""Validation of a model in training: word errors of CTC, log-perplexity of texts otherwise."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from spectron.config import Experiment, StageConfig
from spectron.objectives import make_objective
from spectron.objectives.base import LABELS
from spectron.parallel import sharding
from spectron.types import Batch, Params, Statistics, UserError
from spectron.utils.ctc import collapse


def make_validation(
    experiment: Experiment, stage: StageConfig, statistics: Statistics, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """Returns params → validation metrics on stage.evaluate_on, as the stage's first objective reads it.

    Every process evaluates all examples. Raises UserError without seqio, or if the objective has no such metric.
    """
    try:
        from spectron.data.seqio.evaluator import ValidationSet
    except ModuleNotFoundError as error:
        raise UserError(
            f"evaluate_on needs the package {error.name!r}; pip install 'spectron-jax[data]', or leave it empty."
        ) from error

    stream = stage.streams[0]
    objective = make_objective(stream.objective, experiment, statistics)
    if not objective.validates:
        raise UserError(f"evaluate_on: the objective {objective.name!r} has no validation metric; leave it empty.")
    labels = objective.validates == LABELS
    examples = ValidationSet(experiment, stage.evaluate_on, stage.evaluate_examples, stream.batch_size, labels)
    evaluate = jax.jit(objective.validation, out_shardings=sharding.replicated(mesh))

    def metrics(params: Params) -> dict[str, float]:
        def predict(batch: Batch) -> list:
            outcome = np.asarray(evaluate({part: params[part] for part in objective.parts}, batch))
            return [collapse(row) for row in outcome] if labels else outcome.tolist()

        return examples(predict)

    return metrics
