"""Decoding a batch of eight prompts of the digits model: our one jitted loop against plain PyTorch loops.

    python tests/benchmarks/decode.py [--rounds N] [--config FILE]

Random parameters whose eos never wins and whose stop head never fires, so that every answer has the greatest length.
Before anything is timed, texts and frames must agree with pre-net dropout off; the timed runs have the config's
dropout.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from benchmarks import timing, torch_decoding, torch_training  # noqa: E402
from benchmarks.torch_twin import Twin  # noqa: E402

from spectron.config import Experiment, load_experiment  # noqa: E402
from spectron.inference.decode import decode, limits  # noqa: E402
from spectron.models.decode_layout import for_decoding  # noqa: E402
from spectron.objectives import make_objective  # noqa: E402
from spectron.parallel.sharding import unbox  # noqa: E402
from spectron.types import Batch, Params  # noqa: E402

ROWS = 8


def endless(experiment: Experiment, batch: Batch) -> Params:
    """Random parameters that end neither text nor speech."""
    objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, timing.speech_like(experiment))
    params = unbox(jax.jit(objective.init)(jax.random.key(0), batch))
    head = params["lm"]["head"]["kernel"]
    params["lm"]["head"]["kernel"] = head.at[:, 1].set((head[:, 4] + head[:, 5]) / 2)  # never above both
    params["stop"]["bias"] = jnp.full_like(params["stop"]["bias"], -1e3)
    return params


def with_dropout(experiment: Experiment, on: bool) -> Experiment:
    """The experiment with pre-net dropout in decoding or without."""
    frames = dataclasses.replace(experiment.model.frames, dropout_in_decoding=on)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, frames=frames))


def contenders(experiment: Experiment, batch: Batch, params: Params) -> dict[str, Callable[[], tuple]]:
    """Functions from nothing to (text, frames, number of frames), waited for."""
    limit, statistics = limits(experiment), timing.speech_like(experiment)
    samples = batch.samples[:, : round(experiment.data.max_prompt_seconds * experiment.features.sample_rate)]
    keys = jax.random.split(jax.random.key(1), ROWS)
    weights = for_decoding(params, jnp.dtype(experiment.model.compute_dtype))
    twin = Twin(experiment, statistics).eval()
    twin.load_state_dict(torch_training.laid_out(params))
    twin.prenet.speaking_dropout = experiment.model.frames.dropout_in_decoding

    def ours() -> tuple:
        out = decode(weights, statistics, samples, batch.prompt_samples, keys, experiment=experiment, limit=limit)
        return jax.device_get((out.text, out.frames, out.num_frames))

    def plain(reader: Callable) -> tuple:
        lengths = torch.tensor(batch.prompt_samples)
        out = torch_decoding.speak(twin, torch.tensor(samples), lengths, limit.tokens, limit.steps, reader)
        return out.text.numpy(), out.frames.numpy(), out.num_frames.numpy()

    return {
        "ours": ours,
        "PyTorch, KV cache": lambda: plain(torch_decoding.cached_reader),
        "PyTorch, no cache": lambda: plain(torch_decoding.uncached_reader),
    }


def check(experiment: Experiment, each: dict[str, Callable[[], tuple]]) -> None:
    """Stop unless all write and speak the same, to the limit."""
    text, frames, count = each["ours"]()
    most = limits(experiment).steps * experiment.model.frames.frames_per_step
    assert (text != 1).all(), "a text ended before its limit: the loops would differ in steps"
    assert (count == most).all(), "an answer ended before its limit: the loops would differ in steps"
    for name, call in each.items():
        other = call()
        np.testing.assert_array_equal(other[0], text, err_msg=name)
        np.testing.assert_array_equal(other[2], count, err_msg=name)
        np.testing.assert_allclose(other[1], frames, atol=1e-3, err_msg=name)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--config", default=str(Path(__file__).resolve().parents[2] / "configs" / "digits.py"))
    arguments = parser.parse_args()
    cores = timing.use_all_cores()
    experiment = load_experiment(arguments.config)
    batch = timing.noise_batch(experiment, ROWS, 0)
    params = endless(experiment, batch)
    quiet = with_dropout(experiment, False)
    check(quiet, contenders(quiet, batch, params))
    found = timing.alternate(contenders(experiment, batch, params), arguments.rounds)
    limit = limits(experiment)
    size = f"{limit.tokens} tokens and {limit.steps} steps of frames each"
    print(f"\nDecoding {ROWS} prompts of {experiment.name!r}, {size}, {cores} threads, float32:\n")
    print(timing.table(found, {name: "ours" for name in found if name != "ours"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
