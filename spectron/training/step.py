"""The training step: losses, gradients in micro-batches, the update, and its layout on a mesh."""

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

from spectron.checkpoints.trees import merge, paths_of, select
from spectron.config import Experiment, StageConfig
from spectron.objectives import Objective, make_objectives
from spectron.objectives.base import term_name
from spectron.parallel import sharding
from spectron.training.optimizer import frozen_layout, learning_rates, make_optimizer, split_frozen, update_ema
from spectron.types import Array, Batch, Losses, Params, Statistics, TrainState

LossFn = Callable[[Params, tuple[Batch, ...], Array], Losses]
GradientsFn = Callable[[Params, Params, Array, tuple[Batch, ...], Params | None], tuple[Losses, Params]]
UpdateFn = Callable[[TrainState, Sequence[Losses], Params], tuple[TrainState, dict[str, Array]]]
StepFn = Callable[[TrainState, tuple[Batch, ...]], tuple[TrainState, dict[str, Array]]]


def make_loss(stage: StageConfig, objectives: Sequence[Objective]) -> LossFn:
    """(params, one batch per stream, key) → the sum of the streams' losses, each multiplied by its weight."""

    each = [stream_loss(stage, objectives, index) for index in range(len(objectives))]

    def loss(params: Params, batches: tuple[Batch, ...], key: Array) -> Losses:
        return join(stage, [one(params, (batch,), key) for one, batch in zip(each, batches, strict=True)])

    return loss


def stream_loss(stage: StageConfig, objectives: Sequence[Objective], index: int) -> LossFn:
    """(params, (its batch,), key) → the losses of one stream, multiplied by its weight."""
    objective, weight = objectives[index], stage.streams[index].weight

    def loss(params: Params, batches: tuple[Batch, ...], key: Array) -> Losses:
        losses = objective.loss(params, batches[0], jax.random.fold_in(key, index))
        return Losses(losses.terms, {name: weight * value for name, value in losses.coefficients.items()})

    return loss


def join(stage: StageConfig, each: Sequence[Losses]) -> Losses:
    """The sum of the streams' losses.

    A term that two streams have is kept for each of them, under its stream's name: "text_lm_1/text".
    """
    seen = Counter(name for losses in each for name in losses.terms)
    total = Losses({}, {})
    for index, (stream, losses) in enumerate(zip(stage.streams, each, strict=True)):
        names = {name: name if seen[name] == 1 else term_name(stream, index, name) for name in losses.terms}
        total += Losses(
            {names[name]: term for name, term in losses.terms.items()},
            {names[name]: value for name, value in losses.coefficients.items()},
        )
    return total


def gradients(
    loss: LossFn, params: Params, batches: tuple[Batch, ...], key: Array, parts: int
) -> tuple[Losses, Params]:
    """Losses of the whole batch and the gradient of their total, computed in `parts` micro-batches.

    The total divides each term's sum by its weight over the whole batch, so a first pass adds up the weights; they
    depend on masks only, and the compiler removes the rest of that pass. The second pass adds the gradients of
    sum / weight.
    """
    if parts == 1:

        def whole(params: Params) -> tuple[Array, Losses]:
            losses = loss(params, batches, jax.random.fold_in(key, 0))
            return losses.total(), losses

        (_, losses), grads = jax.value_and_grad(whole, has_aux=True)(params)
        return losses, grads

    def split(x: Array) -> Array:
        # Every parts-th row, so that no row moves to another device.
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


def make_gradients(stage: StageConfig, seed: int, loss: LossFn) -> GradientsFn:
    """(params, frozen, step, batches, gradients so far or None) → losses, and the gradients of the trained params.

    Randomness is fold_in(seed, step). No backward pass is computed for the kernels of frozen parts.
    """

    def function(
        params: Params, frozen: Params, step: Array, batches: tuple[Batch, ...], before: Params | None
    ) -> tuple[Losses, Params]:
        def loss_with_frozen(params: Params, batches: tuple[Batch, ...], key: Array) -> Losses:
            return loss(merge(params, frozen), batches, key)

        key = jax.random.fold_in(jax.random.key(seed), step)
        losses, grads = gradients(loss_with_frozen, params, batches, key, stage.accumulate)
        return losses, grads if before is None else jax.tree.map(jnp.add, before, grads)

    return function


def make_update(stage: StageConfig, params: Params, optimizer: Any) -> UpdateFn:
    """(state, each stream's losses, gradients) → the state after the step, and its metrics: update, moving average.

    params: those that are trained, abstract or real.
    """
    rates = learning_rates(stage, params)

    def update(state: TrainState, each: Sequence[Losses], grads: Params) -> tuple[TrainState, dict[str, Array]]:
        losses = each[0] if len(each) == 1 else join(stage, each)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state.ema, params, state.step, stage.ema_decay) if stage.ema_decay else state.ema
        metrics = losses.means() | {"grad_norm": optax.tree.norm(grads)}
        metrics |= {name: rate(state.step) for name, rate in rates.items()}
        return TrainState(state.step + 1, params, opt_state, ema, state.frozen), metrics

    return update


def make_step(stage: StageConfig, seed: int, loss: LossFn, params: Params, optimizer: Any) -> StepFn:
    """One step, all streams in one program."""
    differentiate, update = make_gradients(stage, seed, loss), make_update(stage, params, optimizer)

    def step(state: TrainState, batches: tuple[Batch, ...]) -> tuple[TrainState, dict[str, Array]]:
        losses, grads = differentiate(state.params, state.frozen, state.step, batches, None)
        return update(state, [losses], grads)

    return step


def init_params(objectives: Sequence[Objective], batches: Sequence[Batch], seed: int) -> Params:
    """Boxed parameters. Each part is initialised by its first objective, with a key of that objective's name.

    So adding a further objective does not change the initial values of the others.
    """
    params: Params = {}
    for objective, batch in zip(objectives, batches, strict=True):
        if set(objective.parts) - set(params):
            key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(objective.name.encode()))
            fresh = objective.init(key, batch)
            params |= {part: fresh[part] for part in objective.parts if part not in params}
    return params


@dataclasses.dataclass(frozen=True)
class ApartStep:
    """A step in a program for each stream and one for the update, jitted.

    One program for all streams would be compiled for every combination of their batches' shapes: eight buckets of two
    streams make 64.
    """

    streams: tuple[Any, ...]  # GradientsFn, which donates the gradients so far
    update: Any  # UpdateFn, which donates the state


@dataclasses.dataclass(frozen=True)
class StageProgram:
    """The compiled functions and the layout of a stage: all that does not change while it runs."""

    stage: StageConfig
    abstract: TrainState  # shapes, types and shardings
    init: Callable[[], TrainState]  # a fresh state on the devices, without its frozen parts
    step: Any  # jitted, donates its state
    apart: ApartStep | None  # the same step in several programs, if more than one stream has batches of several shapes
    put: Callable[[tuple[Batch, ...]], tuple[Batch, ...]]  # this process's rows → global arrays


def make_program(
    experiment: Experiment, stage: StageConfig, statistics: Statistics, batches: Sequence[Batch], mesh: Any
) -> StageProgram:
    """Lay a stage out on a mesh. batches: one per stream, of which only the shapes matter.

    Raises UserError for optimizers that match no parameter.
    """
    objectives = make_objectives(stage.streams, experiment, statistics)
    rows = [jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), batch) for batch in batches]
    boxed = jax.eval_shape(lambda: init_params(objectives, rows, experiment.seed))
    params, frozen = split_frozen(stage, sharding.unbox(boxed))
    trained = paths_of(params)
    optimizer = make_optimizer(stage, params)

    def init() -> TrainState:
        whole = sharding.unbox(init_params(objectives, rows, experiment.seed))
        params = select(whole, lambda path: path in trained)
        ema = jax.tree.map(jnp.copy, params) if stage.ema_decay else {}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)

    fresh = jax.eval_shape(init)
    shapes = dataclasses.replace(fresh, frozen=frozen_layout(frozen, experiment.model.compute_dtype))
    layout = sharding.shardings_like(shapes, sharding.param_shardings(boxed, mesh), mesh)
    abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout)
    step = make_step(stage, experiment.seed, make_loss(stage, objectives), params, optimizer)
    update = make_update(stage, params, optimizer)
    several = bool(experiment.data.buckets) and sum(batch.samples.shape[1] > 0 for batch in batches) > 1
    return StageProgram(
        stage=stage,
        abstract=abstract,
        init=jax.jit(init, out_shardings=dataclasses.replace(layout, frozen={})),
        step=jax.jit(step, donate_argnums=0, out_shardings=(layout, sharding.replicated(mesh))),
        apart=_apart(experiment.seed, stage, objectives, update, layout, mesh) if several else None,
        put=lambda batches: sharding.put_batch(batches, mesh),
    )


def _apart(
    seed: int, stage: StageConfig, objectives: Sequence[Objective], update: UpdateFn, layout: TrainState, mesh: Any
) -> ApartStep:
    losses = [stream_loss(stage, objectives, index) for index in range(len(objectives))]
    replicated = sharding.replicated(mesh)
    return ApartStep(
        streams=tuple(
            jax.jit(make_gradients(stage, seed, loss), donate_argnums=4, out_shardings=(replicated, layout.params))
            for loss in losses
        ),
        update=jax.jit(update, donate_argnums=0, out_shardings=(layout, replicated)),
    )


class CompiledSteps:
    """A stage's step, compiled for each shape of its batches when it is first needed."""

    def __init__(self, program: StageProgram) -> None:
        self._program = program
        self._compiled: dict[Any, Any] = {}

    def prepare(self, state: TrainState, batches: tuple[Batch, ...]) -> bool:
        """Compile what these batches need; returns whether anything was missing. Batches are on the devices."""
        before, apart = len(self._compiled), self._program.apart
        if apart is None:
            self._compile(_shapes(batches), self._program.step, state, batches)
            return len(self._compiled) > before
        grads = None
        for index, (stream, batch) in enumerate(zip(apart.streams, batches, strict=True)):
            self._compile((index, _shapes([batch])), stream, state.params, state.frozen, state.step, (batch,), grads)
            grads = self._program.abstract.params
        if not before:
            losses = [compiled.out_info[0] for compiled in self._compiled.values()]  # of every stream, in order
            self._compile("update", apart.update, state, losses, grads)
        return len(self._compiled) > before

    def __call__(self, state: TrainState, batches: tuple[Batch, ...]) -> tuple[TrainState, dict[str, Array]]:
        """One step. The state is donated."""
        if self._program.apart is None:
            return self._compiled[_shapes(batches)](state, batches)
        each, grads = [], None
        for index, batch in enumerate(batches):
            compiled = self._compiled[index, _shapes([batch])]
            losses, grads = compiled(state.params, state.frozen, state.step, (batch,), grads)
            each.append(losses)
        return self._compiled["update"](state, each, grads)

    def _compile(self, key: Any, function: Any, *arguments: Any) -> None:
        if key not in self._compiled:
            self._compiled[key] = function.lower(*arguments).compile()


def _shapes(batches: Sequence[Batch]) -> tuple[tuple[int, ...], ...]:
    return tuple((*batch.samples.shape, batch.text.shape[1]) for batch in batches)
