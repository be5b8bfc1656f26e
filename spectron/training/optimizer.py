"""Optimizers by path (Adam, Muon, frozen), learning-rate schedules and multipliers, and the moving average."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from spectron.checkpoints.trees import is_below, path_of, paths_of, select
from spectron.config import FrozenConfig, LearningRateConfig, MuonConfig, OptimizerConfig, StageConfig
from spectron.types import Array, Params, UserError

# Not matrices for Muon: embedding tables, classification heads, depthwise kernels (taps per channel).
NOT_MUON = re.compile(r"embed|(^|_)head$|^stop$|depthwise|^bias$|^scale$")
# Kernels [D, H, K]: one input axis, two output axes.
PROJECTIONS = {"query", "key", "value", "q", "k", "v", "kv", "qkv"}
STACK = "layers"  # nn.scan stacks the layers below this name along a leading axis
DEFAULT = "default"  # the name of stage.optimizer in the optimizer's state
BY_ADAM = ".adam"  # added to the name of a Muon optimizer: that of the AdamW beside it


# Which optimizer updates which parameter.


def prefix_of(stage: StageConfig, path: str) -> str:
    """The longest prefix in stage.optimizers that a parameter's path is below; "" (stage.optimizer) if none matches."""
    return max((prefix for prefix, _ in stage.optimizers if is_below(path, prefix)), key=len, default="")


def config_of(stage: StageConfig, prefix: str) -> OptimizerConfig:
    """The optimizer of a prefix in stage.optimizers; "" is stage.optimizer."""
    return dict(stage.optimizers)[prefix] if prefix else stage.optimizer


def split_frozen(stage: StageConfig, params: Params) -> tuple[Params, Params]:
    """(what is trained, what is frozen) of the parameters of a stage, two nested dicts; params may be abstract.

    Raises UserError for a prefix that matches no parameter, or if nothing is trained.
    """
    prefixes, paths = [prefix for prefix, _ in stage.optimizers], paths_of(params)
    for prefix in prefixes:
        if not any(is_below(path, prefix) for path in paths):
            raise UserError(
                f"stages.{stage.name}.optimizers: no parameter's path starts with {prefix!r}; "
                f"the parts of this stage are {', '.join(params)}."
            )
    frozen = {path for path in paths if isinstance(config_of(stage, prefix_of(stage, path)), FrozenConfig)}
    if frozen == paths:
        raise UserError(f"stages.{stage.name}: all parameters are frozen; give one part an optimizer that trains it.")
    return select(params, lambda path: path not in frozen), select(params, lambda path: path in frozen)


def frozen_layout(frozen: Params, dtype: str) -> Params:
    """Abstract frozen parameters as they are held on the devices: matrices in `dtype`, the model's compute_dtype.

    Layers convert a matrix to compute_dtype before they use it, so nothing changes but the memory.
    """

    def one(leaf: Any, matrix: bool) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if matrix and leaf.dtype == jnp.float32 else leaf.dtype)

    return jax.tree.map(one, frozen, _matrices(frozen))


def trained_groups(stage: StageConfig, params: Params) -> dict[str, LearningRateConfig]:
    """Prefix ("" is the default) → optimizer, of those that update any of the trained parameters."""
    used = {prefix_of(stage, path) for path in paths_of(params)}
    groups = {prefix: config_of(stage, prefix) for prefix in sorted(used)}
    return {prefix: config for prefix, config in groups.items() if isinstance(config, LearningRateConfig)}


def make_optimizer(stage: StageConfig, params: Params) -> optax.GradientTransformation:
    """The optimizer of a stage. params: those that are trained, unboxed, abstract or real.

    Order: clip the global norm; each parameter's own optimizer with its decay (decoupled, matrices only) and learning
    rate; the learning-rate multiplier.
    """
    multipliers = multiplier_tree(stage, params)
    groups = trained_groups(stage, params)
    transforms: dict[str, optax.GradientTransformation] = {}
    for prefix, config in groups.items():
        transforms |= _transforms(_label(prefix), config, stage.steps)
    clip = optax.clip_by_global_norm(stage.clip_norm) if stage.clip_norm > 0 else optax.identity()
    return optax.chain(clip, optax.partition(transforms, _labels(stage, params)), _scale_by_tree(multipliers))


def _label(prefix: str) -> str:
    return prefix.replace("/", ".") or DEFAULT


def _labels(stage: StageConfig, params: Params) -> Params:
    """Per parameter the name of the transformation in `_transforms` that updates it."""

    def one(path: Any, leaf: Any) -> str:
        prefix = prefix_of(stage, path_of(path))
        muon = isinstance(config_of(stage, prefix), MuonConfig)
        return _label(prefix) + (BY_ADAM if muon and _muon_axes(path, leaf) is None else "")

    return jax.tree_util.tree_map_with_path(one, params)


def _transforms(label: str, config: LearningRateConfig, steps: int) -> dict[str, optax.GradientTransformation]:
    """The transformations of one optimizer by name: two of Muon, one for its matrices and AdamW for the others.

    Weight decay has one mask for all of them, `_matrices`, and the learning rate of the transformation it is part of.
    """
    rate, decay = schedule(config, steps), config.weight_decay
    if not isinstance(config, MuonConfig):
        return {label: optax.adamw(rate, b1=config.b1, b2=config.b2, weight_decay=decay, mask=_matrices)}
    muon = optax.contrib.muon(
        rate,
        weight_decay=decay,
        weight_decay_mask=_matrices,
        muon_weight_dimension_numbers=muon_dimensions,
        ns_steps=config.newton_schulz_steps,
    )
    adam_rate = schedule(config, steps, config.adam_learning_rate or config.learning_rate)
    adam = optax.adamw(
        adam_rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=decay,
        mask=_matrices,
        nesterov=True,  # as the AdamW in optax.contrib.muon
    )
    return {label: muon, label + BY_ADAM: adam}


# Learning rates.


def schedule(config: LearningRateConfig, steps: int, peak: float | None = None) -> Callable[[Array], Array]:
    """Step (from 0) → learning rate: linear warm-up, then the named decay to `final_fraction` of the peak at `steps`.

    The learning rate is above 0 at step 0: warm-up is (step + 1) / warmup_steps."""
    peak = config.learning_rate if peak is None else peak
    warmup = max(min(config.warmup_steps, steps), 1)
    final = config.final_fraction

    def progress(step: Array) -> Array:
        return jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)

    shapes: dict[str, Callable[[Array], Array]] = {
        "constant": lambda step: jnp.ones_like(step, jnp.float32),
        "linear": lambda step: 1.0 - (1.0 - final) * progress(step),
        "cosine": lambda step: final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(math.pi * progress(step))),
        "rsqrt": lambda step: jnp.sqrt(warmup / jnp.maximum(step + 1.0, warmup)),
    }
    shape = shapes[config.schedule]

    def rate(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.minimum((step + 1.0) / warmup, 1.0) * shape(step)

    return rate


def learning_rates(stage: StageConfig, params: Params) -> dict[str, Callable[[Array], Array]]:
    """The schedules as metrics: "learning_rate" of stage.optimizer, "learning_rate/PREFIX" of the others that train."""
    return {
        f"learning_rate/{prefix}" if prefix else "learning_rate": schedule(config, stage.steps)
        for prefix, config in trained_groups(stage, params).items()
    }


def multiplier_tree(stage: StageConfig, params: Params) -> Params:
    """Per parameter the learning-rate multiplier of the longest matching prefix, 1 if none matches.

    Each optimizer's `lr_multipliers` apply to the parameters that it updates. Raises UserError for a multiplier that
    matches no parameter or is not above 0.
    """
    groups = trained_groups(stage, params)
    unused = {(group, prefix) for group, config in groups.items() for prefix, _ in config.lr_multipliers}

    def one(keys: Any, _: Any) -> float:
        path = path_of(keys)
        group = prefix_of(stage, path)
        matching = [(p, value) for p, value in groups[group].lr_multipliers if is_below(path, p)]
        unused.difference_update((group, prefix) for prefix, _ in matching)
        return max(matching, key=lambda pair: len(pair[0]))[1] if matching else 1.0

    tree = jax.tree_util.tree_map_with_path(one, params)
    if unused:
        group, prefix = min(unused)
        raise UserError(
            f"{_key(stage, group)}.lr_multipliers: no parameter's path starts with {prefix!r}; "
            f"the parts that it trains are {', '.join(params)}."
        )
    return tree


def _key(stage: StageConfig, prefix: str) -> str:
    return f"stages.{stage.name}.optimizers.{prefix}" if prefix else f"stages.{stage.name}.optimizer"


def _scale_by_tree(multipliers: Params) -> optax.GradientTransformation:
    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        del params
        return jax.tree.map(lambda u, m: u if m == 1.0 else u * m, updates, multipliers), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


# Which parameters are matrices.


def muon_dimensions(params: Params) -> Params:
    """Per parameter the axes that Muon treats as a matrix, or None if AdamW updates it.

    The leading axis of a stack of layers is a batch of matrices; projections to heads [D, H, K] are D × HK; every other
    kernel (also [H, K, D] and convolutions [taps, in, out]) is (all but the last) × last.
    """

    return jax.tree_util.tree_map_with_path(_muon_axes, params)


def _muon_axes(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
    """`muon_dimensions` of one parameter."""
    names = _names(path)
    first, rank = int(STACK in names), leaf.ndim - int(STACK in names)
    if rank < 2 or any(NOT_MUON.search(name) for name in names):
        return None
    axes = tuple(range(first, leaf.ndim))
    split = 1 if PROJECTIONS & set(names) else len(axes) - 1
    return MuonDimensionNumbers(reduction_axis=axes[:split], output_axis=axes[split:])


def _matrices(params: Params) -> Params:
    """True where weight decay applies: rank 2 or more, not counting the leading axis of a stack of layers."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x.ndim - int(STACK in _names(path)) >= 2, params)


def _names(path: Any) -> list[str]:
    return [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]


# The moving average.


def update_ema(ema: Params, params: Params, step: Array, decay: float) -> Params:
    """One step of the moving average.

    The decay starts low, (1 + step) / (10 + step) (ours), so that a short run's average forgets its initial values.
    """
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda e, p: e * kept + p * (1.0 - kept), ema, params)
