"""Adam and Muon from optax, learning-rate schedules, factors by path, and the moving average of parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from spectron.config import OptimizerConfig
from spectron.types import Array, Params, UserError

# No matrices in Muon's sense: tables that are looked up, outputs that are classified, taps per channel.
NOT_MUON = re.compile(r"embed|(^|_)head$|^stop$|depthwise|^bias$|^scale$")
PROJECTIONS = {
    "query",
    "key",
    "value",
    "q",
    "k",
    "v",
    "kv",
    "qkv",
}  # kernels [D, H, K]: one input axis, two outputs
STACK = "layers"  # nn.scan stacks the layers of this name along a leading axis


def schedule(config: OptimizerConfig, steps: int, peak: float | None = None) -> Callable[[Array], Array]:
    """Step (from 0) → learning rate: linear warm-up, then the named decay to `final_fraction` of the peak at `steps`.

    The first step already moves: warm-up is (step + 1) / warmup_steps. Raises UserError for an unknown schedule.
    """
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
    if config.schedule not in shapes:
        raise UserError(f"optimizer.schedule: there is no {config.schedule!r}; choose one of {', '.join(shapes)}.")
    shape = shapes[config.schedule]

    def rate(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32)
        return peak * jnp.minimum((step + 1.0) / warmup, 1.0) * shape(step)

    return rate


def factor_tree(config: OptimizerConfig, params: Params) -> Params:
    """Per parameter the learning-rate factor of the longest matching path start, 1 where none matches.

    Raises UserError for a factor that matches no parameter.
    """
    unused = {prefix for prefix, _ in config.factors}

    def one(path: Any, _: Any) -> float:
        name = "/".join(_names(path))
        found = [(prefix, f) for prefix, f in config.factors if name == prefix or name.startswith(prefix + "/")]
        unused.difference_update(prefix for prefix, _ in found)
        return max(found, key=lambda pair: len(pair[0]))[1] if found else 1.0

    tree = jax.tree_util.tree_map_with_path(one, params)
    if unused:
        raise UserError(
            f"optimizer.factors: no parameter's path starts with {min(unused)!r}; "
            f"the parts of this stage are {', '.join(params)}."
        )
    return tree


def make_optimizer(config: OptimizerConfig, params: Params, steps: int) -> optax.GradientTransformation:
    """The optimizer of one stage. params: unboxed, abstract or real.

    Order: clip the global norm, Adam or Muon, decay of matrices (decoupled), learning rate, factor.
    """
    factors = factor_tree(config, params)
    rate = schedule(config, steps)
    if config.name == "adam":
        core = optax.adamw(
            rate,
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=_matrices(params),
        )
    elif config.name == "muon":
        core = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_learning_rate=schedule(config, steps, config.adam_learning_rate or config.learning_rate),
            muon_weight_dimension_numbers=muon_dimensions,
        )
    else:
        raise UserError(f"optimizer.name: there is no {config.name!r}; choose adam or muon.")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    return optax.chain(clip, core, _scale_by_tree(factors))


def _scale_by_tree(factors: Params) -> optax.GradientTransformation:
    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        del params
        return jax.tree.map(lambda u, f: u if f == 1.0 else u * f, updates, factors), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def muon_dimensions(params: Params) -> Params:
    """Per parameter the axes that Muon treats as a matrix, or None where Adam is used.

    A leading axis of a stack of layers is a batch of matrices; projections to heads [D, H, K] are D × HK; every other
    kernel (also [H, K, D] and convolutions [taps, in, out]) is (all but the last) × last.
    """

    def one(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        names = _names(path)
        first, rank = int(STACK in names), leaf.ndim - int(STACK in names)
        if rank < 2 or any(NOT_MUON.search(name) for name in names):
            return None
        axes = tuple(range(first, leaf.ndim))
        split = 1 if PROJECTIONS & set(names) else len(axes) - 1
        return MuonDimensionNumbers(reduction_axis=axes[:split], output_axis=axes[split:])

    return jax.tree_util.tree_map_with_path(one, params)


def _matrices(params: Params) -> Params:
    """True where weight decay applies: everything of rank 2 or more, not counting the axis of a stack of layers."""
    return jax.tree_util.tree_map_with_path(lambda path, x: x.ndim - int(STACK in _names(path)) >= 2, params)


def _names(path: Any) -> list[str]:
    return [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]


def freeze(params: Params, factors: Params) -> Params:
    """Params whose factor is 0 get no gradient, so that their backward pass is not computed."""
    return jax.tree.map(lambda x, f: jax.lax.stop_gradient(x) if f == 0.0 else x, params, factors)


def update_ema(ema: Params, params: Params, step: Array, decay: float) -> Params:
    """One step of the moving average. It is shorter at first ((1 + step) / (10 + step), ours), so that the average of a
    short run forgets its initial values."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)
    return jax.tree.map(lambda e, p: e * kept + p * (1.0 - kept), ema, params)
