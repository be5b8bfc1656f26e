"""Checkpoints of a tiny model with random parameters, and exports of them, for tests of what reads and writes both."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny_run

from spectron import cli
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.config import ObjectiveConfig
from spectron.objectives import make_objective
from spectron.parallel import sharding
from spectron.types import Statistics, TrainState

SIZES = ("data.max_prompt_seconds=1.0", "data.max_continuation_seconds=0.5", "data.max_seconds=1.5")
STAGES = {"spectron": "joint", "ctc": "speech", "text_lm": "text"}


def random_params(*overrides: str, objective: str = "spectron", seed: int = 0):
    """Parameters that an objective would train, float32."""
    config = tiny_run.experiment(*SIZES, *overrides)
    bands = config.features.num_mels
    made = make_objective(
        ObjectiveConfig.members[objective](),
        config,
        Statistics(np.zeros(bands, np.float32), np.ones(bands, np.float32)),
    )
    batch = tiny_run.noise_batch(config, "text" if objective == "text_lm" else "speech", 1, 0, 0)
    shapes = sharding.unbox(jax.eval_shape(made.init, jax.random.key(0), batch))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)


def write_checkpoint(folder: Path, *overrides: str, ema: bool = True, objective: str = "spectron") -> Path:
    """FOLDER/STAGE/checkpoints/7; returns FOLDER."""
    config, stage = tiny_run.experiment(*SIZES, *overrides), STAGES[objective]
    bands = config.features.num_mels
    heard = Statistics(np.linspace(-7, -5, bands, dtype=np.float32), np.full(bands, 3, np.float32))
    params = random_params(*overrides, objective=objective)
    average = random_params(*overrides, objective=objective, seed=1) if ema else {}
    with Checkpointer(folder / stage / FOLDER) as saver:
        meta = make_meta(config, stage, None if objective == "text_lm" else heard)
        saver.save(7, TrainState(jnp.int32(7), params, {}, average), meta)
    return folder


def run(*words: object) -> int:
    """`spectron WORDS`, its exit code."""
    return cli.main([str(word) for word in words])


def same(a, b) -> None:
    """Every array of two trees is equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def one_sentence(error: str, *words: str) -> None:
    """What stderr must be: one line, no traceback, naming what is wrong."""
    lines = [line for line in error.splitlines() if line.startswith("spectron: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    assert lines[0].endswith(".") and all(word in lines[0] for word in words), lines[0]
