"""A model as functions of flat dictionaries, for programs that are not this one.

prepare(tensors of weights.safetensors) → weights; prefill(weights, prompts) → rows; step(weights, rows) → rows, until
all are done; finish(rows) → text and frames; waveform(frames) → samples.
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
from jaxtyping import Array

from spectron.audio.signal import to_int16
from spectron.checkpoints.export_format import dequantised, unflatten, with_scales
from spectron.checkpoints.manager import Loaded
from spectron.config import Experiment
from spectron.export.folder import NAMES
from spectron.inference import decode
from spectron.inference.decode import Limits
from spectron.models.decode_layout import to_decode_layout
from spectron.models.spectron import prefix_length
from spectron.objectives.joint import Joint
from spectron.types import Params, Statistics, UserError
from spectron.vocoders.griffin_lim import FRAMES, ITERATIONS, invert

PLATFORMS = ("cpu", "cuda", "tpu")
SHORTEST = 8  # frames of a prompt; of fewer, convolutions would have to know how many
PATH = r"^.*/(?=[^/]+/[^/]+$)"
STATISTICS = "statistics"  # beside the model's parts
Flat = dict[str, Any]  # name → array


def flat(tree: Any) -> Flat:
    """A tree by the names of its leaves: keys, fields and numbers joined by "."."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}


def _shaped(shape: tuple[Any, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


@dataclasses.dataclass(frozen=True)
class Functions:
    """One model's. tensors: what weights.safetensors holds, arrays or their shapes."""

    experiment: Experiment
    statistics: Statistics
    tensors: Mapping[str, Any]

    @property
    def limit(self) -> Limits:
        """The longest answer."""
        return decode.limits(self.experiment)

    @property
    def longest(self) -> int:
        """Samples of the longest prompt."""
        return round(self.experiment.data.max_prompt_seconds * self.experiment.features.sample_rate)

    @property
    def room(self) -> int:
        """Positions of a row's cache."""
        return decode.positions(self.longest, self.experiment, self.limit)

    def prepare(self, tensors: Flat) -> Flat:
        """Tensors as they are stored → weights as decoding reads them, and the statistics."""
        return flat(self._for_decoding(tensors))

    def prefill(
        self, weights: Flat, samples: Array, num_samples: Array, seed: Array, numbers: Array, forced: Array
    ) -> Flat:
        """Prompts int16 [B, S] → rows; row i draws from fold_in(seed, numbers[i]) and writes `forced` int32 [B, L]
        where that is above 0."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        # As decode.hear and decode.admit do it, so that a row comes out the same to the bit.
        heard = prefix_length(self.experiment.model, samples.shape[1])
        rows = decode.prefill(
            *(*self._params(weights), samples, num_samples, jax.random.key_data(keys), forced),
            experiment=self.experiment,
            limit=self.limit,
            room=heard,
        )
        longer = ((0, 0, 0), (0, self.room - heard, 0), (0, 0, 0))
        cache = jax.tree.map(lambda x: jax.lax.pad(x, jnp.zeros((), x.dtype), longer), rows.cache)
        return flat(rows._replace(cache=cache))

    def step(self, weights: Flat, rows: Flat, most: Array) -> Flat:
        """Advance until one more row is done, at most so many positions."""
        params, _ = self._params(weights)
        return flat(decode.run(params, self._rows(rows), most, experiment=self.experiment))

    def finish(self, weights: Flat, rows: Flat) -> Flat:
        """What rows said: text int32 [B, L], frames float32 [B, T, F], num_frames int32 [B], stopped bool [B]."""
        return decode.finish(self._rows(rows), self._params(weights)[1])._asdict()

    def waveform(self, frames: Array, num_frames: Array) -> Array:
        """Log-mel [B, T, F] → int16 [B, T · hop]; T is a multiple of FRAMES."""
        return to_int16(invert(frames, num_frames, 0, ITERATIONS, self.experiment.features))

    def answer(self, weights: Flat, samples: Array, num_samples: Array, seed: Array) -> Flat:
        """All of it in one call: prompts of which row i draws from fold_in(seed, i) → what `finish` says, and samples
        int16 [B, T · hop]."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(samples.shape[0]))
        said = decode.decode(
            *(*self._params(weights), samples, num_samples, keys),
            experiment=self.experiment,
            limit=self.limit,
        )
        steps = said.frames.shape[1]
        frames = jnp.pad(said.frames, ((0, 0), (0, -steps % FRAMES), (0, 0)))
        audio = self.waveform(frames, said.num_frames)[:, : steps * self.experiment.features.hop]
        return {**said._asdict(), "samples": audio}

    @functools.cached_property
    def weights(self) -> Any:
        """Shapes of what `prepare` makes, as a tree."""
        shapes = {name: _shaped(x.shape, x.dtype) for name, x in self.tensors.items()}
        return jax.eval_shape(self._for_decoding, shapes)

    def row_shapes(self, batch: Any) -> Flat:
        """Shapes of rows; batch may be a symbol."""
        two, three = flat(self._idle(2)), flat(self._idle(3))

        def shape(name: str) -> tuple[Any, ...]:
            sizes = zip(two[name].shape, three[name].shape, strict=True)
            return tuple(n + (more - n) * (batch - 2) for n, more in sizes)  # an axis may hold rows and heads both

        return {name: _shaped(shape(name), x.dtype) for name, x in two.items()}

    def _idle(self, batch: int) -> decode.Rows:
        sizes: dict[str, Any] = {"limit": self.limit, "batch": batch, "room": self.room}
        return jax.eval_shape(functools.partial(decode.idle, experiment=self.experiment, **sizes), {})

    def _for_decoding(self, tensors: Flat) -> Params:
        spoken = {name: x for name, x in tensors.items() if name.split(".")[0] in Joint.parts}
        params = unflatten(dequantised(with_scales(spoken)), scan_layers=False)
        model = self.experiment.model
        if model.scan_layers:  # the encoder's program is one layer in a loop, here as in training
            encoder = params["encoder"]
            count = sum(name.startswith("layers_") for name in encoder)
            layers = [encoder.pop(f"layers_{i}") for i in range(count)]
            if layers:
                encoder["layers"] = {"block": jax.tree.map(lambda *each: jnp.stack(each), *layers)}
        # Statistics are arguments, as in a live model: by a constant the compiler would divide in another way.
        statistics = jax.tree.map(jnp.asarray, self.statistics)
        return {**to_decode_layout(params, jnp.dtype(model.compute_dtype)), STATISTICS: statistics}

    def _params(self, weights: Flat) -> tuple[Params, Statistics]:
        like = self.weights
        tree = jax.tree.unflatten(jax.tree.structure(like), [weights[name] for name in flat(like)])
        return {name: part for name, part in tree.items() if name != STATISTICS}, tree[STATISTICS]

    def _rows(self, rows: Flat) -> decode.Rows:
        like = self._idle(2)
        return jax.tree.unflatten(jax.tree.structure(like), [rows[name] for name in flat(like)])


def functions_of(weights: Path, loaded: Loaded) -> Functions:
    """The functions of an export whose weights are written. Raises UserError for a model that does not speak."""
    from safetensors import safe_open

    missing = [part for part in Joint.parts if part not in loaded.params]
    if missing or loaded.statistics is None:
        raise UserError(
            f"The checkpoint holds no {', '.join(missing) or 'statistics'}: give the one of a spectron stage, or ask "
            f"for --format safetensors."
        )
    types = {short: name for name, short in NAMES.items()}
    with safe_open(weights, framework="np") as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        tensors = {name: _shaped(tuple(x.get_shape()), types[x.get_dtype()]) for name, x in slices.items()}
    return Functions(loaded.experiment, loaded.statistics, tensors)


def exported(function: Callable[..., Any], *arguments: Any) -> export.Exported:
    """A function for all platforms; it does not tell where it was made: of files that operations come from, folder and
    name alone."""
    wanted = {"jax_include_full_tracebacks_in_locations": False, "jax_hlo_source_file_canonicalization_regex": PATH}
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        for name, value in wanted.items():
            jax.config.update(name, value)
        return export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
