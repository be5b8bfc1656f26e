"""The format stablehlo: functions serialised by jax.export, and a loader that needs jax, numpy and safetensors only.

Batch size, prompt length and answer length are symbolic, one file runs on cpu, cuda and tpu, and weights are arguments.
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

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import WEIGHTS
from spectron.export.functions import SHORTEST, Functions, exported, flat, functions_of
from spectron.types import UserError
from spectron.vocoders.griffin_lim import FRAMES

LOADER, FOLDER, SUFFIX = "loader.py", "stablehlo", ".bin"
READER = "flatbuffers"  # jax reads exports with it, but pip does not install it with jax

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
`.mlir_module()` is its StableHLO. Symbolic sizes are B slots, S samples of a prompt ({shortest:,} to {longest:,}) and T
frames (a multiple of {block}): each combination of sizes is compiled when it is first used. Dictionaries are flat, name
to array, with slots on the first axis of each array: before a step, the states of several calls of prefill may be
concatenated, or written over slots that are done.

- prepare(tensors of weights.safetensors) → weights in the layout that decoding reads, and log-mel statistics; call once
- prefill(weights, samples int16 [B, S], lengths int32 [B], seed uint32, numbers int32 [B],
  forced int32 [B, {tokens}]) → state; slot i draws from `fold_in(seed, numbers[i])` and must write the token ids
  `forced`, where -1 lets the model choose
- step(weights, state, max_steps int32) → state, decoded until at least one more slot is done, at most `max_steps`
  positions; `state["done"]` bool [B]
- finish(weights, state) → text int32 [B, {tokens}], frames float32 [B, {frames}, {bands}] (log-mel),
  num_tokens int32 [B] (with the stop id), num_frames int32 [B], stopped bool [B] (by the stop head)
- waveform(frames float32 [B, T, {bands}], num_frames int32 [B]) → samples int16 [B, T x {hop}]

Feature settings are inside. `flatbuffers/` is the package that jax reads these files with
(Apache License 2.0, github.com/google/flatbuffers), used where none is installed.
"""


def write(folder: Path, checkpoint: Checkpoint) -> str:
    """Add the functions and the loader to an export; returns their section of its README. Raises UserError."""
    functions, place = functions_of(folder / WEIGHTS, checkpoint), folder / FOLDER
    copy_reader(folder)
    place.mkdir()
    for name, made in exported_functions(functions):
        (place / (name + SUFFIX)).write_bytes(made.serialize())
    shutil.copyfile(Path(__file__).with_name("loader.py"), folder / LOADER)
    config = functions.config
    features = config.features
    return SECTION.format(
        rate=features.sample_rate,
        longest=config.max_prompt_samples,
        shortest=SHORTEST * features.hop,
        tokens=config.text_tokens,
        frames=config.frame_steps * config.model.frames.frames_per_step,
        bands=features.num_mels,
        block=FRAMES,
        hop=features.hop,
    )


def exported_functions(functions: Functions) -> Iterator[tuple[str, export.Exported]]:
    """Each function by name, with symbolic sizes, for all platforms at once."""
    for name, arguments in signatures(functions).items():
        yield name, exported(getattr(functions, name), *arguments)


def signatures(functions: Functions) -> dict[str, tuple[Any, ...]]:
    """Shapes of each function's arguments."""
    config = functions.config
    hop, bands = config.features.hop, config.features.num_mels
    limits = [f"s >= {SHORTEST * hop}", f"s <= {config.max_prompt_samples}"]
    b, s = export.symbolic_shape("b, s", constraints=limits)
    (slots,) = export.symbolic_shape("b")
    batch, steps = export.symbolic_shape(f"b, {FRAMES}*t")

    def ints(*shape: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    weights, state = flat(functions.weights), functions.state_shapes(slots)
    seed, tokens = jax.ShapeDtypeStruct((), jnp.uint32), config.text_tokens
    return {
        "prepare": (dict(functions.tensors),),
        "prefill": (weights, jax.ShapeDtypeStruct((b, s), jnp.int16), ints(b), seed, ints(b), ints(b, tokens)),
        "step": (weights, state, ints()),
        "finish": (weights, state),
        "waveform": (jax.ShapeDtypeStruct((batch, steps, bands), jnp.float32), ints(batch)),
    }


def copy_reader(folder: Path) -> None:
    """Copy the package that jax reads exports with next to the loader. Raises UserError if it is not installed."""
    found = importlib.util.find_spec(READER)
    if found is None or not found.submodule_search_locations:
        raise UserError("The format 'stablehlo' needs the package 'flatbuffers'; pip install flatbuffers.")
    source, target = Path(found.submodule_search_locations[0]), folder / READER
    target.mkdir()
    for path in sorted(source.glob("*.py")):
        if path.name != "flexbuffers.py":  # another format, half of the package
            shutil.copyfile(path, target / path.name)
