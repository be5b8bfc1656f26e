"""How a model in training does on a held-out task: word errors of CTC, log-perplexity of texts otherwise."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from spectron.config import Experiment, StageConfig
from spectron.objectives import make_objective
from spectron.objectives.ctc import CTC
from spectron.objectives.joint import Joint
from spectron.objectives.losses import log_probability
from spectron.objectives.text_lm import TextLM, shift_right
from spectron.parallel import sharding
from spectron.types import Array, Batch, Params, Sequence, Statistics, UserError


def make_held_out(
    experiment: Experiment, stage: StageConfig, statistics: Statistics, mesh: jax.sharding.Mesh
) -> Callable[[Params], dict[str, float]]:
    """What tells the figures of parameters on stage.evaluate_on, as the stage's first objective reads it.

    Every process asks all of the examples, so that any can tell. Raises UserError without seqio.
    """
    try:
        from spectron.data.seqio.evaluator import HeldOut
    except ModuleNotFoundError as error:
        raise UserError(
            f"evaluate_on needs the package {error.name!r}; pip install 'spectron-jax[data]', or leave it empty."
        ) from error

    stream = stage.streams[0]
    objective = make_objective(stream.objective, experiment, statistics, stream)
    known: dict[type, Callable[..., Array]] = {CTC: _labels, TextLM: _text_lm, Joint: _joint}
    if type(objective) not in known:
        raise UserError(f"evaluate_on knows no figure for the objective {stream.objective!r}; leave it empty.")
    writes = isinstance(objective, CTC)
    examples = HeldOut(experiment, stage.evaluate_on, stage.evaluate_examples, stream.batch_size, writes)
    ask = jax.jit(functools.partial(known[type(objective)], objective), out_shardings=sharding.replicated(mesh))

    def figures(params: Params) -> dict[str, float]:
        def through(batch: Batch) -> list:
            found = np.asarray(ask({part: params[part] for part in objective.parts}, batch))
            return [_collapsed(row) for row in found] if writes else found.tolist()

        return examples(through)

    return figures


def _labels(objective: CTC, params: Params, batch: Batch) -> Array:
    """The best label of every encoder frame, −1 where there is none. int32 [B, T]."""
    logits = objective.logits(params, objective.mel(batch))
    return jnp.where(logits.mask, logits.values.argmax(axis=-1), -1)


def _collapsed(path: np.ndarray) -> list[int]:
    """A path of labels without repeats, blanks (0) and padding."""
    first = np.append(True, path[1:] != path[:-1])
    return path[first & (path > 0)].tolist()


def _text_lm(objective: TextLM, params: Params, batch: Batch) -> Array:
    """ln p of each text under the LM alone. float32 [B]."""
    tokens, variables = shift_right(batch.text, objective.sos), {"params": params["lm"]}
    nothing = jnp.zeros(tokens.shape[0], jnp.int32)
    hidden = objective.lm.apply(variables, tokens, batch.text_mask, nothing, method="read")
    logits = functools.partial(objective.lm.apply, variables, method="logits")
    return log_probability(logits, hidden, batch.text, batch.text_mask)


def _joint(objective: Joint, params: Params, batch: Batch) -> Array:
    """ln p of each text, given the prompt. float32 [B]."""
    prompt, _, steps = objective.inputs(batch)
    tokens = Sequence(shift_right(batch.text, objective.vocabulary.sos_id), batch.text_mask)
    out = objective.model.apply({"params": params}, prompt, tokens, steps, None, True)
    return log_probability(functools.partial(objective.logits, params), out.written, batch.text, batch.text_mask)
