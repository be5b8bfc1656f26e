"""A model as functions of flat dictionaries of arrays, for programs without this package.

prepare(tensors of weights.safetensors) → weights; prefill(weights, prompts) → state of a slot for each;
step(weights, state) → state, until all slots are done; finish(state) → text and frames; waveform(frames) → samples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Array, Float, Int, UInt

from spectron.audio.signal import to_int16
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import dequantised, unflatten, with_scales
from spectron.config import Experiment
from spectron.export.folder import NAMES
from spectron.inference import decode
from spectron.inference.decode_config import DecodeConfig
from spectron.models.decode_layout import to_decode_layout
from spectron.objectives.joint import Joint
from spectron.types import Params, Statistics, UserError
from spectron.vocoders.griffin_lim import FRAMES, ITERATIONS, invert

PLATFORMS = ("cpu", "cuda", "tpu")
SHORTEST = 8  # frames of the shortest prompt: shorter ones would need other convolutions than the symbolic size gives
PATH = r"^.*/(?=[^/]+/[^/]+$)"
STATISTICS = "statistics"  # a part of the weights next to the model's
Flat = dict[str, Any]  # name → array


def flat(tree: Any) -> Flat:
    """A tree as a dictionary of its leaves, named by keys, fields and indices joined with "."."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def _shaped(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Functions:
    """The functions of one model. tensors: those of weights.safetensors, arrays or their shapes."""

    experiment: Experiment
    statistics: Statistics
    tensors: Mapping[str, Any]

    @functools.cached_property
    def config(self) -> DecodeConfig:
        """The settings of decoding: greedy, and lengths of the training data."""
        return DecodeConfig.from_experiment(self.experiment)

    def prepare(self, tensors: Flat) -> Flat:
        """Tensors as they are stored → weights in the decode layout, and the statistics."""
        return flat(self._decode_layout(tensors))

    def prefill(
        self,
        weights: Flat,
        samples: Int[Array, "B S"],
        num_samples: Int[Array, " B"],
        seed: UInt[Array, ""],
        numbers: Int[Array, " B"],
        forced: Int[Array, "B L"],
    ) -> Flat:
        """Prompts int16 → the state of a slot for each; slot i draws from fold_in(seed, numbers[i]).

        forced: token ids that must be written, −1 where the model chooses.
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        params, statistics = self._params(weights)
        # A cache of the prompt's own length, then padding: as the engine does it, so that results agree to the bit.
        state = decode.prefill(params, statistics, samples, num_samples, keys, forced, config=self.config)
        missing = self.config.cache_length() - self.config.prefix_length(samples.shape[1])
        padding = ((0, 0, 0), (0, missing, 0), (0, 0, 0))
        cache = jax.tree.map(lambda x: jax.lax.pad(x, jnp.zeros((), x.dtype), padding), state.cache)
        return flat(state._replace(cache=cache))

    def step(self, weights: Flat, state: Flat, max_steps: Int[Array, ""]) -> Flat:
        """Decode until at least one more slot is done, at most `max_steps` positions."""
        params, _ = self._params(weights)
        return flat(decode.decode_until_done(params, self._state(state), max_steps, config=self.config))

    def finish(self, weights: Flat, state: Flat) -> Flat:
        """The answers, named as in Decoded: text, frames, num_tokens, num_frames, stopped."""
        return decode.finish(self._state(state), self._params(weights)[1])._asdict()

    def waveform(self, frames: Float[Array, "B T F"], num_frames: Int[Array, " B"]) -> Int[Array, "B S"]:
        """Log-mel → int16 samples by Griffin-Lim, S = T · hop; T is a multiple of FRAMES."""
        return to_int16(invert(frames, num_frames, 0, ITERATIONS, self.config.features))

    def answer(
        self, weights: Flat, samples: Int[Array, "B S"], num_samples: Int[Array, " B"], seed: UInt[Array, ""]
    ) -> Flat:
        """Everything in one call: prompts → what `finish` returns, and samples int16 [B, T · hop].

        Slot i draws from fold_in(seed, i).
        """
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(samples.shape[0]))
        params, statistics = self._params(weights)
        answers = decode.decode(params, statistics, samples, num_samples, keys, config=self.config)
        steps = answers.frames.shape[1]
        frames = jnp.pad(answers.frames, ((0, 0), (0, -steps % FRAMES), (0, 0)))
        audio = self.waveform(frames, answers.num_frames)[:, : steps * self.config.features.hop]
        return {**answers._asdict(), "samples": audio}

    @functools.cached_property
    def weights(self) -> Any:
        """Shapes of the result of `prepare`, as a tree."""
        shapes = {name: _shaped(x.shape, x.dtype) for name, x in self.tensors.items()}
        return jax.eval_shape(self._decode_layout, shapes)

    def state_shapes(self, batch: Any) -> Flat:
        """Shapes of the state of `batch` slots, which may be a symbol."""
        two, three = flat(self._init_state(2)), flat(self._init_state(3))

        def shape(name: str) -> tuple[Any, ...]:
            sizes = zip(two[name].shape, three[name].shape, strict=True)
            return tuple(n + (more - n) * (batch - 2) for n, more in sizes)  # the cache's first axis is slots x heads

        return {name: _shaped(shape(name), x.dtype) for name, x in two.items()}

    def _init_state(self, batch: int) -> decode.DecodeState:
        make = functools.partial(decode.init_state, config=self.config, num_slots=batch)
        return jax.eval_shape(make, {})

    def _decode_layout(self, tensors: Flat) -> Params:
        needed = {name: x for name, x in tensors.items() if name.split(".")[0] in Joint.parts}
        params = unflatten(dequantised(with_scales(needed)), scan_layers=False)
        model = self.experiment.model
        if model.scan_layers:  # the encoder is scanned over stacked layers, here as in training
            encoder = params["encoder"]
            count = sum(name.startswith("layers_") for name in encoder)
            layers = [encoder.pop(f"layers_{i}") for i in range(count)]
            if layers:
                encoder["layers"] = {"block": jax.tree.map(lambda *each: jnp.stack(each), *layers)}
        # Statistics are arguments, as in a live model: the compiler would turn division by a constant into a product.
        statistics = jax.tree.map(jnp.asarray, self.statistics)
        return {**to_decode_layout(params, jnp.dtype(model.compute_dtype)), STATISTICS: statistics}

    def _params(self, weights: Flat) -> tuple[Params, Statistics]:
        like = self.weights
        tree = jax.tree.unflatten(jax.tree.structure(like), [weights[name] for name in flat(like)])
        return {name: part for name, part in tree.items() if name != STATISTICS}, tree[STATISTICS]

    def _state(self, state: Flat) -> decode.DecodeState:
        like = self._init_state(2)
        return jax.tree.unflatten(jax.tree.structure(like), [state[name] for name in flat(like)])


def functions_of(weights: Path, checkpoint: Checkpoint) -> Functions:
    """The functions of an export whose weights are already written. Raises UserError for a model without speech."""
    from safetensors import safe_open

    missing = [part for part in Joint.parts if part not in checkpoint.parts]
    if missing or checkpoint.statistics is None:
        raise UserError(
            f"The checkpoint holds no {', '.join(missing) or 'statistics'}: give the one of a spectron stage, or ask "
            f"for --format safetensors."
        )
    types = {short: name for name, short in NAMES.items()}
    with safe_open(weights, framework="np") as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        tensors = {name: _shaped(tuple(x.get_shape()), types[x.get_dtype()]) for name, x in slices.items()}
    return Functions(checkpoint.experiment, checkpoint.statistics, tensors)


def exported(function: Callable[..., Any], *arguments: Any) -> export.Exported:
    """Export a function for all platforms.

    Of the source files that its operations come from it holds the last folder and the name only, so that the same model
    gives the same bytes wherever the package is installed.
    """
    wanted = {"jax_include_full_tracebacks_in_locations": False, "jax_hlo_source_file_canonicalization_regex": PATH}
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        return export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
