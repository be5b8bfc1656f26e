"""The format stablehlo: functions as jax.export serialises them, and a loader that needs jax, numpy and safetensors.

Batch, prompt length and answer length are symbolic, one file runs on cpu, cuda and tpu, and weights are arguments.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from spectron.checkpoints.export_format import WEIGHTS
from spectron.checkpoints.manager import Loaded
from spectron.export.functions import SHORTEST, Functions, exported, flat, functions_of
from spectron.types import UserError
from spectron.vocoders.griffin_lim import FRAMES

LOADER, FOLDER, SUFFIX = "loader.py", "stablehlo", ".bin"
READER = "flatbuffers"  # what jax reads the files with and pip does not install beside it

SECTION = """## StableHLO

```bash
pip install "jax>=0.10.2" numpy safetensors         # "jax[cuda13]" or "jax[tpu]" on such a machine
python loader.py prompt.wav answer.wav              # prints the text, writes the speech
```

```python
import loader                                       # with this folder on sys.path

model = loader.Model()
answer = model.generate(samples)                    # int16 [S] at {rate:,} Hz, at most {longest:,} of them
print(answer.text, answer.frames.shape, answer.samples.shape)
answers = model.generate_all([samples, samples], seed=3)
```

The first answer compiles for some seconds, and again for every other number of prompts; with JAX_COMPILATION_CACHE_DIR
set to a folder, once per machine.

`stablehlo/` holds the functions; `jax.export.deserialize` reads one, `.call` runs it on cpu, cuda or tpu, and
`.mlir_module()` is its StableHLO. Free are B rows, S samples of a prompt ({shortest:,} to {longest:,}) and T frames (a
multiple of {block}): each set of sizes is compiled when it is met. Dictionaries are flat, name to array, rows on their
first axis: those of several calls of prefill may be joined, or put in the place of rows that are done, before a step.

- prepare(tensors of weights.safetensors) → weights as decoding reads them, and log-mel statistics; to do once
- prefill(weights, samples int16 [B, S], lengths int32 [B], seed uint32, numbers int32 [B],
  forced int32 [B, {tokens}]) → rows; row i draws from `fold_in(seed, numbers[i])` and must write `forced` where that
  is above 0
- step(weights, rows, most int32) → rows, advanced until one more is done, at most `most` positions; `rows["done"]`
  tells which are
- finish(weights, rows) → text int32 [B, {tokens}], frames float32 [B, {frames}, {bands}] (log-mel),
  num_frames int32 [B], stopped bool [B]
- waveform(frames float32 [B, T, {bands}], num_frames int32 [B]) → samples int16 [B, T x {hop}]

Feature settings are inside. `flatbuffers/` is the package that jax reads these files with
(Apache License 2.0, github.com/google/flatbuffers), used where none is installed.
"""


def write(folder: Path, loaded: Loaded) -> str:
    """Add the functions and the loader to an export; returns what its README says of them. Raises UserError."""
    functions, place = functions_of(folder / WEIGHTS, loaded), folder / FOLDER
    copy_reader(folder)
    place.mkdir()
    for name, made in exported_functions(functions):
        (place / (name + SUFFIX)).write_bytes(made.serialize())
    shutil.copyfile(Path(__file__).with_name("loader.py"), folder / LOADER)
    features = loaded.experiment.features
    limit, step = functions.limit, loaded.experiment.model.frames.frames_per_step
    return SECTION.format(
        rate=features.sample_rate,
        longest=functions.longest,
        shortest=SHORTEST * features.hop,
        tokens=limit.tokens,
        frames=limit.steps * step,
        bands=features.num_mels,
        block=FRAMES,
        hop=features.hop,
    )


def exported_functions(functions: Functions) -> Iterator[tuple[str, export.Exported]]:
    """Each function by name, with symbolic sizes, for all platforms at once."""
    for name, arguments in signatures(functions).items():
        yield name, exported(getattr(functions, name), *arguments)


def signatures(functions: Functions) -> dict[str, tuple[Any, ...]]:
    """Shapes of every function's arguments."""
    hop, bands = functions.experiment.features.hop, functions.experiment.features.num_mels
    b, s = export.symbolic_shape("b, s", constraints=[f"s >= {SHORTEST * hop}", f"s <= {functions.longest}"])
    (rows_of_step,) = export.symbolic_shape("b")
    batch, steps = export.symbolic_shape(f"b, {FRAMES}*t")

    def ints(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    weights, rows = flat(functions.weights), functions.row_shapes(rows_of_step)
    seed, tokens = jax.ShapeDtypeStruct((), jnp.uint32), functions.limit.tokens
    return {
        "prepare": (dict(functions.tensors),),
        "prefill": (weights, jax.ShapeDtypeStruct((b, s), jnp.int16), ints(b), seed, ints(b), ints(b, tokens)),
        "step": (weights, rows, ints()),
        "finish": (weights, rows),
        "waveform": (jax.ShapeDtypeStruct((batch, steps, bands), jnp.float32), ints(batch)),
    }


def copy_reader(folder: Path) -> None:
    """Put the package that jax reads exports with beside the loader. Raises UserError where it is not installed."""
    found = importlib.util.find_spec(READER)
    if found is None or not found.submodule_search_locations:
        raise UserError("The format 'stablehlo' needs the package 'flatbuffers'; pip install flatbuffers.")
    source, target = Path(found.submodule_search_locations[0]), folder / READER
    target.mkdir()
    for path in sorted(source.glob("*.py")):
        if path.name != "flexbuffers.py":  # another format, half of the package
            shutil.copyfile(path, target / path.name)
