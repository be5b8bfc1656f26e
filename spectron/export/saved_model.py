"""The format saved_model: the whole model as one TensorFlow graph, for TF Serving and other programs without JAX.

The JAX program is embedded as StableHLO, as jax2tf does it, and its weights are variables. Reading and writing WAV and
decoding token ids are TensorFlow's own operations.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import TOKENIZER, WEIGHTS
from spectron.config import FeatureConfig
from spectron.export.functions import Functions, exported, flat, functions_of
from spectron.inference.api import MIN_PROMPT_SECONDS
from spectron.inference.decode_config import DecodeConfig
from spectron.types import UserError

FOLDER = "saved_model"
# TensorFlow 2.21 reads StableHLO up to 1.13, and jax writes newer; the operations used here are older than either.
STABLEHLO = "1.9.0"
SECTION = """## SavedModel

```python
import tensorflow as tf                             # 2.21 or newer, no JAX

model = tf.saved_model.load("saved_model")
answer = model.signatures["serving_default"](wav_bytes=tf.constant([open("prompt.wav", "rb").read()]))
print(answer["text"][0].numpy().decode())
open("answer.wav", "wb").write(answer["wav_bytes"][0].numpy())
```

For TF Serving copy `saved_model/` to MODELS/NAME/1; in JSON a recording is `{{"wav_bytes": {{"b64": "..."}}}}`.

- serving_default: wav_bytes string [B], WAV of {rate:,} Hz, one channel, 16 bits → text string [B], wav_bytes
  string [B]
- samples: samples int16 [B, S], lengths int32 [B], seed int32 → text string [B], frames float32 [B, {frames}, {bands}]
  (log-mel), num_tokens int32 [B], num_frames int32 [B], samples int16 [B, {speech}], num_samples int32 [B],
  stopped bool [B]

Row i draws from `fold_in(seed, i)` (serving_default: seed 0). B is any size, and S any up to {longest:,}; a longer
prompt, or one of less than {shortest:,} samples, is an error. Prompts are padded to the longest inside: each B is
compiled at its first call, in some seconds.
Weights are variables of the model's compute type, also in an int8 export.
"""


def write(folder: Path, checkpoint: Checkpoint) -> str:
    """Add a SavedModel to an export; returns its section of the README. Raises UserError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError("The format 'saved_model' needs TensorFlow; pip install 'spectron-jax[data]'.") from error
    with contextlib.suppress(RuntimeError):  # another part of the program has used a device already
        tf.config.set_visible_devices([], "GPU")
    tf.get_logger().setLevel("ERROR")
    functions = functions_of(folder / WEIGHTS, checkpoint)
    module, signatures = graph(tf, functions, folder)
    tf.saved_model.save(module, str(folder / FOLDER), signatures=signatures)
    config = functions.config
    features, frames = config.features, config.frame_steps * config.model.frames.frames_per_step
    return SECTION.format(
        rate=features.sample_rate,
        frames=frames,
        bands=features.num_mels,
        speech=frames * features.hop,
        longest=config.max_prompt_samples,
        shortest=shortest(config),
    )


def graph(tf: Any, functions: Functions, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A module that holds the weights, and its signatures."""
    from safetensors.numpy import load_file

    config = functions.config
    features, longest = config.features, config.max_prompt_samples
    table = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    prepared = jax.device_get(jax.jit(functions.prepare)(load_file(folder / WEIGHTS)))
    weights = {name: tf.Variable(value, trainable=False) for name, value in prepared.items()}
    module = tf.Module()
    module.weights = weights  # TensorFlow keeps what a module holds
    made = exported_answer(functions)

    def answer(samples: Any, lengths: Any, seed: Any) -> dict[str, Any]:
        out = call(tf, made, (weights, samples, lengths, tf.cast(seed, tf.uint32)))
        out["num_samples"] = out["num_frames"] * features.hop
        out["text"] = detokenise(tf, out["text"], table)
        return out

    answer = tf.function(answer, autograph=False)  # one for both signatures

    def from_samples(samples: Any, lengths: Any, seed: Any) -> dict[str, Any]:
        with tf.control_dependencies(check_lengths(tf, lengths, tf.shape(samples)[1], config)):
            samples = samples[:, :longest]
            padded = tf.pad(samples, [[0, 0], [0, longest - tf.shape(samples)[1]]])
        return answer(tf.ensure_shape(padded, [None, longest]), lengths, seed)

    def from_wav(wav_bytes: Any) -> dict[str, Any]:
        samples, lengths = read_wavs(tf, wav_bytes, config)
        out = answer(samples, lengths, tf.constant(0))
        return {"text": out["text"], "wav_bytes": write_wavs(tf, out["samples"], out["num_samples"], features)}

    specs = {
        "samples": tf.TensorSpec([None, None], tf.int16, "samples"),
        "lengths": tf.TensorSpec([None], tf.int32, "lengths"),
        "seed": tf.TensorSpec([], tf.int32, "seed"),
    }
    module.from_samples = tf.function(from_samples, input_signature=list(specs.values()), autograph=False)
    module.from_wav = tf.function(
        from_wav, input_signature=[tf.TensorSpec([None], tf.string, "wav_bytes")], autograph=False
    )
    return module, {"serving_default": module.from_wav, "samples": module.from_samples}


def exported_answer(functions: Functions) -> export.Exported:
    """The whole model, prompts of the longest length, any number of rows."""
    (batch,) = export.symbolic_shape("b")
    arguments = (
        flat(functions.weights),
        jax.ShapeDtypeStruct((batch, functions.config.max_prompt_samples), jnp.int16),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((), jnp.uint32),
    )
    return exported(functions.answer, *arguments)


def call(tf: Any, made: export.Exported, arguments: Sequence[Any]) -> dict[str, Any]:
    """Call an exported function, whose result is a dictionary, on tensors: one operation of TensorFlow."""
    from tensorflow.compiler.tf2xla.python import xla

    leaves = jax.tree.leaves(arguments)
    results = xla.call_module(
        tuple(tf.convert_to_tensor(leaves[i]) for i in made.module_kept_var_idx),
        version=made.calling_convention_version,
        module=portable(made),
        Tout=[tf.as_dtype(x.dtype) for x in made.out_avals],
        Sout=[[n if isinstance(n, int) else None for n in x.shape] for x in made.out_avals],
        platforms=[name.upper() for name in made.platforms],
    )
    return jax.tree.unflatten(made.out_tree, results)


def portable(made: export.Exported) -> bytes:
    """The function's StableHLO in a version that TensorFlow reads."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    with ir.Context() as context:
        module = stablehlo.deserialize_portable_artifact(context, made.mlir_module_serialized)
        return stablehlo.serialize_portable_artifact(module, STABLEHLO)


def detokenise(tf: Any, ids: Any, table: Mapping[str, Any]) -> Any:
    """Token ids int32 [B, L] → text string [B], by the table of tokenizer.json."""
    pieces = [bytes([piece]) if isinstance(piece, int) else piece.encode() for piece in table["pieces"]]
    special, space = table["special"], table["space"]
    ended = tf.cumsum(tf.cast(ids == special["eos"], tf.int32), axis=1) > 0
    kept = ~(ended | (ids == special["pad"]) | (ids == special["sos"]))
    written = tf.ragged.boolean_mask(tf.gather(tf.constant(pieces), ids), kept)
    text = tf.strings.reduce_join(written, axis=1, separator=table["join"])
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
    if table["strip"]:
        text = tf.strings.regex_replace(text, "^" + re.escape(space), "", replace_global=False)
    return tf.strings.regex_replace(text, re.escape(space), " ") if space else text


def check_lengths(tf: Any, lengths: Any, size: Any, config: DecodeConfig) -> list[Any]:
    """Operations that refuse a prompt that is too short or too long, or longer than its row."""
    return [
        tf.debugging.assert_greater_equal(lengths, shortest(config), message=TOO_SHORT),
        tf.debugging.assert_less_equal(lengths, config.max_prompt_samples, message=too_long(config)),
        tf.debugging.assert_less_equal(lengths, size, message="A prompt's length is more than there are samples."),
    ]


TOO_SHORT = f"A prompt is shorter than {MIN_PROMPT_SECONDS:g} s; give more of the recording."


def shortest(config: DecodeConfig) -> int:
    """Samples of the shortest prompt."""
    return math.ceil(MIN_PROMPT_SECONDS * config.features.sample_rate)


def too_long(config: DecodeConfig) -> str:
    """The sentence for a prompt of more samples than the model was trained for."""
    seconds = config.max_prompt_samples / config.features.sample_rate
    return f"A prompt is longer than the {seconds:g} s this model was trained for; cut it."


def read_wavs(tf: Any, wav_bytes: Any, config: DecodeConfig) -> tuple[Any, Any]:
    """WAV files string [B] → samples int16 [B, S], lengths int32 [B]; S is the longest prompt that is allowed.

    Checks each file's sample rate, channels and length.
    """
    rate, longest = config.features.sample_rate, config.max_prompt_samples

    def read(content: Any) -> tuple[Any, Any]:
        audio, found = tf.audio.decode_wav(_plain(tf, content))
        size = tf.shape(audio)[0]
        checks = [
            tf.debugging.assert_equal(found, rate, message=f"A prompt must have {rate} samples a second; resample it."),
            tf.debugging.assert_equal(tf.shape(audio)[1], 1, message="A prompt must have one channel; mix it down."),
            tf.debugging.assert_greater_equal(size, shortest(config), message=TOO_SHORT),
            tf.debugging.assert_less_equal(size, longest, message=too_long(config)),
        ]
        with tf.control_dependencies(checks):
            samples = tf.cast(tf.round(audio[:, 0] * 32768), tf.int16)  # exact: decode_wav divided by this number
        return tf.ensure_shape(tf.pad(samples, [[0, longest - size]]), [longest]), size

    kinds = (tf.TensorSpec([longest], tf.int16), tf.TensorSpec([], tf.int32))
    return tf.map_fn(read, wav_bytes, fn_output_signature=kinds)


def _plain(tf: Any, content: Any) -> Any:
    """A WAV file whose header is of the extensible kind with the header that decode_wav takes; any other as it is.

    The kind is stated in bytes 20 and 21, and for the extensible one again in 44 and 45; 1 is PCM.
    """
    part = functools.partial(tf.strings.substr, content)
    size = tf.strings.length(content)
    # Beyond the end substr raises an error, and what is no WAV file is decode_wav's to refuse.
    extensible = tf.logical_and(size > 60, tf.strings.substr(content, 0, tf.minimum(size, 4)) == b"RIFF")
    extensible = tf.cond(
        extensible,
        lambda: (part(12, 10) == b"fmt \x28\x00\x00\x00\xfe\xff") & (part(44, 2) == b"\x01\x00"),
        lambda: tf.constant(value=False),
    )
    return tf.cond(
        extensible,
        lambda: tf.strings.join([part(0, 16), b"\x10\x00\x00\x00\x01\x00", part(22, 14), part(60, size - 60)]),
        lambda: content,
    )


def write_wavs(tf: Any, samples: Any, lengths: Any, features: FeatureConfig) -> Any:
    """Samples int16 [B, S] → WAV files string [B]."""

    def written(row: Any) -> Any:
        audio = tf.cast(row[0][: row[1]], tf.float32) / 32768
        return tf.audio.encode_wav(audio[:, None], features.sample_rate)

    return tf.map_fn(written, (samples, lengths), fn_output_signature=tf.TensorSpec([], tf.string))
