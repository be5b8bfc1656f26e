"""Our part of gpu.py (see there): the GPU's limits, agreement of the attention kernels, training steps, decoding."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spectron.config import Experiment
from spectron.cost.chips import chip_of
from spectron.data.buckets import longest_shape
from spectron.data.vocabulary import EOS, SPECIALS, make_vocabulary
from spectron.inference.decode import decode
from spectron.inference.decode_config import DecodeConfig
from spectron.models.decode_layout import to_decode_layout
from spectron.models.decoder import empty_cache
from spectron.objectives import make_objective, make_objectives
from spectron.objectives.base import step_flops
from spectron.parallel import sharding
from spectron.training.step import make_program
from spectron.types import Batch, Params, Statistics

WARM_UP = 3
LOSSES_AGREE, GRADIENTS_AGREE = 0.02, 0.05  # relative; bfloat16 has eight bits


def speech_like(experiment: Experiment) -> Statistics:
    """About the mean and deviation of log-mels of speech (timing.py's imports PyTorch, which would take memory)."""
    bands = experiment.features.num_mels
    return Statistics(np.full(bands, -6.0, np.float32), np.full(bands, 3.0, np.float32))


def noise(experiment: Experiment, rows: int, full: bool = True) -> Batch:
    """Utterances of noise and random text: of full length, or of lengths of their own from a half up."""
    rng = np.random.default_rng(0)
    data, rate, length = experiment.data, experiment.features.sample_rate, experiment.data.max_tokens
    size, longest = round(data.max_seconds * rate), round(data.max_prompt_seconds * rate)
    share = np.ones(rows) if full else rng.uniform(0.5, 1.0, rows)
    tokens = np.maximum(share * length, 1).astype(int)
    mask = np.arange(length) < tokens[:, None]
    text = rng.integers(SPECIALS, make_vocabulary(data.vocabulary).size, (rows, length))
    text[np.arange(rows), tokens - 1] = EOS
    return Batch(
        samples=rng.integers(-3000, 3000, (rows, size)).astype(np.int16),
        num_samples=(share * size).astype(np.int32),
        prompt_samples=(share * longest).astype(np.int32),
        text=np.where(mask, text, 0).astype(np.int32),
        text_mask=mask,
        text_loss_mask=mask,
        token_ends=np.zeros((rows, length), np.int32),
    )


def times(call: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """Seconds of a call that waits for its result: the first one's (it compiles), and of `rounds` after WARM_UP."""
    found = []
    for _ in range(WARM_UP + rounds):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    timed = found[WARM_UP:]
    spread = {"seconds": statistics.median(timed), "least": min(timed), "most": max(timed)}
    return spread | {"rounds": rounds, "first_seconds": found[0]}


def about() -> dict[str, Any]:
    """What JAX runs on."""
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    return {
        "device": device.device_kind,
        "jax": jax.__version__,
        "sheet_flops": chip.flops if chip else None,
        "sheet_bandwidth": chip.bandwidth if chip else None,
    }


def peak_bytes() -> int | None:
    """The most that arrays held at once in this process; None where nobody counts."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


# Limits.


def rates(small: bool) -> dict[str, Any]:
    """FLOP/s of bfloat16 matrix products, bytes per second of a copy and of a reduction; the best of each kind."""
    sizes, work, elements = ((128, 256), 1e8, 2**20) if small else ((4096, 8192, 16384), 5e13, 2**30)
    products = {}
    for size in sizes:
        loops = max(1, round(work / (2 * size**3)))
        matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) * size**-0.5  # keeps the scale
        run = jax.jit(lambda a, x, n=loops: jax.lax.fori_loop(0, n, lambda _, x: a @ x, x))
        seconds = times(lambda run=run, a=matrix: jax.block_until_ready(run(a, a)), 10)["seconds"]
        products[str(size)] = 2 * size**3 * loops / seconds
    loops, x = 10, jnp.full(elements, 0.5, jnp.bfloat16)
    copy = jax.jit(lambda x: jax.lax.fori_loop(0, loops, lambda _, x: -x, x))
    # What is subtracted changes, so that no turn can be left out.
    widest = jax.jit(
        lambda x: jax.lax.fori_loop(0, loops, lambda _, c: jnp.max(jnp.abs(x - c)), jnp.zeros((), x.dtype))
    )
    moved = {
        "copy": 2 * x.nbytes * loops / times(lambda: jax.block_until_ready(copy(x)), 10)["seconds"],
        "reduction": x.nbytes * loops / times(lambda: jax.block_until_ready(widest(x)), 10)["seconds"],
    }
    return {"products": products, "flops": max(products.values()), **moved, "bandwidth": max(moved.values())}


# Training.


def lacking(experiment: Experiment) -> str:
    """What this machine lacks for the experiment, "" if nothing."""
    cudnn = experiment.model.lm.attention == "cudnn"
    return "attention=cudnn needs an NVIDIA GPU" if cudnn and jax.default_backend() != "gpu" else ""


def losses(experiment: Experiment, batch: Batch) -> dict[str, float]:
    """The losses without dropout from fresh parameters, and the norm of the gradient."""
    objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, speech_like(experiment))

    def total(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        found = objective.loss(params, batch, jax.random.key(1), train=False)
        return found.total(), found.means()

    def run(params: Params) -> dict[str, jax.Array]:
        (_, means), grads = jax.value_and_grad(total, has_aux=True)(params)
        return means | {"gradient": optax.tree.norm(grads)}

    params = sharding.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
    found = jax.device_get(jax.jit(run)(params))
    return {name: float(value) for name, value in found.items() if not name.endswith("accuracy")}


def compare(wanted: dict[str, float], found: dict[str, float]) -> dict[str, Any]:
    """Relative differences by name, and whether all of them are rounding."""
    each = {name: abs(found[name] - value) / max(abs(value), 1e-6) for name, value in wanted.items()}
    limit = {name: GRADIENTS_AGREE if name == "gradient" else LOSSES_AGREE for name in each}
    return {"differences": each, "agree": all(each[name] <= limit[name] for name in each)}


def positions(experiment: Experiment) -> int:
    """What the LM computes for a row: encoder frames, text, frame steps."""
    return DecodeConfig.from_experiment(experiment).cache_length()


def work(experiment: Experiment) -> dict[str, Any]:
    """What a step does, whoever does it."""
    stage = experiment.stages[0]
    rows = stage.streams[0].batch_size
    shape = longest_shape(experiment.data, experiment.features, rows)
    return {
        "batch": rows,
        "flops": step_flops(make_objectives(stage.streams, experiment), [shape]).step,
        "positions": rows * positions(experiment),
        "speech_seconds": rows * experiment.data.max_seconds,
    }


def step(experiment: Experiment, rounds: int) -> dict[str, Any]:
    """The step that train.py runs."""
    stage = experiment.stages[0]
    mesh = sharding.make_mesh((), jax.devices()[:1])
    with jax.set_mesh(mesh):
        batches = (noise(experiment, stage.streams[0].batch_size),)
        program = make_program(experiment, stage, speech_like(experiment), batches, mesh)
        state, there, metrics = program.init(), program.put(batches), {}

        def once() -> None:
            nonlocal state, metrics
            state, metrics = program.step(state, there)
            jax.block_until_ready((state, metrics))

        found = times(once, rounds)
    loss = float(metrics["loss"])
    if not np.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}")
    return work(experiment) | found | {"loss": loss, "peak_bytes": peak_bytes()}


# Decoding.


def endless(experiment: Experiment, dtype: Any) -> Params:
    """Random parameters of that type whose texts never end: eos scores 0, and some other token more."""

    @jax.jit
    def make(key: jax.Array) -> Params:
        objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, speech_like(experiment))
        params = sharding.unbox(objective.init(key, noise(experiment, 1)))
        lm = params["lm"]
        if experiment.model.lm.tie_embeddings:
            lm["embedding"] = lm["embedding"].at[EOS].set(0.0)
        else:
            lm["head"]["kernel"] = lm["head"]["kernel"].at[:, EOS].set(0.0)
        return jax.tree.map(lambda x: x.astype(dtype), params)

    return make(jax.random.key(0))


def weights(params: Params, dtype: Any) -> dict[str, int]:
    """Bytes that a position must read in each phase."""
    sizes = {part: sum(x.size for x in jax.tree.leaves(params[part])) for part in ("lm", "prenet", "postnet", "stop")}
    tables = {name: sum(x.size for x in jax.tree.leaves(params["lm"].get(name, {}))) for name in ("embedding", "head")}
    layers, head = sizes["lm"] - sum(tables.values()), tables["head"] or tables["embedding"]
    sound = sizes["prenet"] + sizes["postnet"] + sizes["stop"]
    found = {"text": layers + head, "frames": layers + sound}
    return {name: count * jnp.dtype(dtype).itemsize for name, count in found.items()}


def decoding(experiment: Experiment, stored: str, rounds: int) -> dict[str, Any]:
    """Seconds of a text and of a frame position at batch 1."""
    config = DecodeConfig.from_experiment(experiment)
    dtype, measured = jnp.dtype(experiment.model.compute_dtype), speech_like(experiment)
    heard = config.max_prompt_samples
    params, batch, keys = (
        to_decode_layout(endless(experiment, jnp.dtype(stored)), jnp.dtype(stored)),
        noise(experiment, 1),
        jax.random.split(jax.random.key(1), 1),
    )
    samples = jax.device_put(batch.samples[:, :heard])
    speak = functools.partial(decode, config=config)
    bias = jnp.full_like(params["stop"]["bias"], 1e3)
    inputs = {"none": (bias, 0), "short": (bias, heard), "full": (-bias, heard)}
    ended = {}

    def run(name: str) -> None:
        stop, size = inputs[name]
        changed = params | {"stop": params["stop"] | {"bias": stop}}
        ended[name] = jax.block_until_ready(speak(changed, measured, samples, jnp.array([size], jnp.int32), keys))

    seconds = {name: times(functools.partial(run, name), rounds)["least"] for name in inputs}
    spoken = {name: int(out.num_frames[0]) for name, out in ended.items()}
    wanted = {"none": 0, "short": 1, "full": config.frame_steps * experiment.model.frames.frames_per_step}
    if spoken != wanted or bool((ended["full"].text == EOS).any()):
        raise ValueError(f"the answers have {spoken} frames instead of {wanted}, or a text ended")
    cache = empty_cache(experiment.model.lm, 1, positions(experiment), dtype)
    return {
        "answer_seconds": seconds["full"],
        "prefill_seconds": seconds["none"],
        "seconds": {
            "text": (seconds["short"] - seconds["none"]) / (config.text_tokens + 1),
            "frames": (seconds["full"] - seconds["short"]) / (config.frame_steps - 1),
        },
        "bytes": weights(params, dtype),
        "cache_bytes": sum(x.nbytes for x in cache),
        "peak_bytes": peak_bytes(),
    }
