"""What the devices execute: losses, gradients in micro-batches, the update; and how it is laid out on a mesh."""

from __future__ import annotations

import dataclasses
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spectron.config import Experiment, StageConfig
from spectron.objectives import Objective, make_objectives
from spectron.parallel import sharding
from spectron.training.optimizer import factor_tree, freeze, make_optimizer, schedule, update_ema
from spectron.types import Array, Batch, Losses, Params, Statistics, TrainState

LossFn = Callable[[Params, tuple[Batch, ...], Array], Losses]
StepFn = Callable[[TrainState, tuple[Batch, ...]], tuple[TrainState, dict[str, Array]]]


def make_loss(stage: StageConfig, objectives: Sequence[Objective]) -> LossFn:
    """(params, one batch per stream, key) → the sum of the streams' losses, each scaled by its weight.

    A term that two streams share keeps its own mean: it is named after its stream, "text_lm_1/text".
    """

    def loss(params: Params, batches: tuple[Batch, ...], key: Array) -> Losses:
        keys = [jax.random.fold_in(key, index) for index in range(len(objectives))]
        each = [o.loss(params, batch, k) for o, batch, k in zip(objectives, batches, keys, strict=True)]
        seen = Counter(name for losses in each for name in losses.terms)
        total = Losses({}, {})
        for index, (stream, losses) in enumerate(zip(stage.streams, each, strict=True)):
            names = {name: name if seen[name] == 1 else f"{stream.key}_{index}/{name}" for name in losses.terms}
            total += Losses(
                {names[name]: term for name, term in losses.terms.items()},
                {names[name]: stream.weight * value for name, value in losses.coefficients.items()},
            )
        return total

    return loss


def gradients(
    loss: LossFn, params: Params, batches: tuple[Batch, ...], key: Array, parts: int
) -> tuple[Losses, Params]:
    """Losses of the whole batch and the gradient of their total, computed in `parts` micro-batches.

    The total divides each term's sum by its weight over the whole batch, so the weights come first; they depend on
    masks alone, and the compiler drops the rest of that pass. The second pass adds gradients of sum / weight exactly.
    """
    if parts == 1:

        def whole(params: Params) -> tuple[Array, Losses]:
            losses = loss(params, batches, jax.random.fold_in(key, 0))
            return losses.total(), losses

        (_, losses), grads = jax.value_and_grad(whole, has_aux=True)(params)
        return losses, grads

    def split(x: Array) -> Array:
        # Every parts-th row, so that each device keeps the rows it has.
        rows = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return sharding.constrain(rows, None, "batch", *[None] * (rows.ndim - 2))

    micro = (jnp.arange(parts), jax.tree.map(split, batches))

    def weigh(_: None, inputs: Any) -> tuple[None, dict[str, Array]]:
        losses = loss(params, inputs[1], jax.random.fold_in(key, inputs[0]))
        return None, {name: term.weight for name, term in losses.terms.items()}

    weights = jax.tree.map(lambda x: x.sum(0), jax.lax.scan(weigh, None, micro)[1])

    def add(total: Params, inputs: Any) -> tuple[Params, Losses]:
        def part(params: Params) -> tuple[Array, Losses]:
            losses = loss(params, inputs[1], jax.random.fold_in(key, inputs[0]))
            sums = {name: dataclasses.replace(term, weight=weights[name]) for name, term in losses.terms.items()}
            return Losses(sums, losses.coefficients).total(), losses

        (_, losses), grads = jax.value_and_grad(part, has_aux=True)(params)
        return jax.tree.map(jnp.add, total, grads), losses

    grads, stacked = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), micro)
    terms = jax.tree.map(lambda x: x.sum(0), stacked.terms)
    return Losses(terms, jax.tree.map(lambda x: x[0], stacked.coefficients)), grads


def make_step(stage: StageConfig, seed: int, loss: LossFn, params: Params, optimizer: Any) -> StepFn:
    """One step: losses, gradients, update, average. Randomness is fold_in(seed, step). params may be abstract."""
    config = stage.optimizer
    factors = factor_tree(config, params)
    rate = schedule(config, stage.steps)

    def thawed(params: Params, batches: tuple[Batch, ...], key: Array) -> Losses:
        return loss(freeze(params, factors), batches, key)

    def step(state: TrainState, batches: tuple[Batch, ...]) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        losses, grads = gradients(thawed, state.params, batches, key, config.accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, state.step, config.ema_decay) if config.ema_decay else state.ema
        metrics = losses.means() | {"grad_norm": optax.tree.norm(grads), "learning_rate": rate(state.step)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step


def init_params(objectives: Sequence[Objective], batches: Sequence[Batch], seed: int) -> Params:
    """Boxed parameters of all parts, each from the first objective that has it, under a key of that objective's name:
    another objective behind it changes nothing."""
    params: Params = {}
    for objective, batch in zip(objectives, batches, strict=True):
        if set(objective.parts) - set(params):
            key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(objective.name.encode()))
            fresh = objective.init(key, batch)
            params |= {part: fresh[part] for part in objective.parts if part not in params}
    return params


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a stage that does not change while it runs."""

    stage: StageConfig
    abstract: TrainState  # shapes, types and shardings
    init: Callable[[], TrainState]  # fresh state, on the devices
    step: Any  # jitted, donates its state
    put: Callable[[tuple[Batch, ...]], tuple[Batch, ...]]


def make_plan(
    experiment: Experiment, stage: StageConfig, statistics: Statistics, batches: Sequence[Batch], mesh: Any
) -> Plan:
    """Plan a stage for a mesh. batches: one (shapes only matter) per stream."""
    objectives = make_objectives(stage.streams, experiment, statistics)
    rows = [jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), batch) for batch in batches]
    boxed = jax.eval_shape(lambda: init_params(objectives, rows, experiment.seed))
    params = sharding.unbox(boxed)
    optimizer = make_optimizer(stage.optimizer, params, stage.steps)

    def init() -> TrainState:
        params = sharding.unbox(init_params(objectives, rows, experiment.seed))
        ema = jax.tree.map(jnp.copy, params) if stage.optimizer.ema_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    shapes = jax.eval_shape(init)
    layout = sharding.shardings_like(shapes, sharding.param_shardings(boxed, mesh), mesh)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)
    step = make_step(stage, experiment.seed, make_loss(stage, objectives), params, optimizer)
    return Plan(
        stage=stage,
        abstract=abstract,
        init=jax.jit(init, out_shardings=layout),
        step=jax.jit(step, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh))),
        put=lambda batches: sharding.put_batch(batches, mesh),
    )
