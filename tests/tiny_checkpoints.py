"""Checkpoints as training writes them, of models that nobody trained: what suites are run on end to end."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.config import (
    CharactersConfig,
    ConformerConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    FramesConfig,
    LMConfig,
    ModelConfig,
    ObjectiveConfig,
    StageConfig,
    StreamConfig,
)
from spectron.parallel import sharding
from spectron.training.step import make_program
from spectron.types import Batch, Statistics

LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz?'")


def experiment() -> Experiment:
    """A Spectron, a recogniser and a text LM of some thousand parameters; a tenth of a second a decoder step."""
    data = DataConfig(
        vocabulary=CharactersConfig(LETTERS),
        max_seconds=1.0,
        max_prompt_seconds=0.5,
        max_continuation_seconds=0.5,
        max_tokens=16,
    )
    features = FeatureConfig(num_mels=16, low_hz=100.0)
    encoder = ConformerConfig(
        features=features, dim=16, num_layers=1, num_heads=2, kernel_size=3, ff_multiple=2, conv_channels=8
    )
    model = ModelConfig(
        encoder=encoder,
        lm=LMConfig(dim=16, num_layers=1, num_heads=2, num_kv_heads=1, ff_dim=32),
        frames=FramesConfig(frames_per_step=8, bottleneck=8),
        scan_layers=False,
    )
    stages = tuple(
        StageConfig(name, (StreamConfig(ObjectiveConfig.members[name](), "none", 8),), 1)
        for name in ("spectron", "ctc", "text_lm")
    )
    return Experiment("tiny", data, stages, features, model)


def save(folder: Path, stage: str, seed: int = 0) -> Path:
    """FOLDER/STAGE: the newest checkpoint of stage "spectron", "ctc" or "text_lm"; returns that folder."""
    made = dataclasses.replace(experiment(), seed=seed)
    statistics = Statistics(np.full(16, -6, np.float32), np.full(16, 3, np.float32))
    mesh = sharding.make_mesh(())
    rng = np.random.default_rng(0)
    mask = np.ones((8, 16), bool)
    sizes = np.full(8, 0 if stage == "text_lm" else 16_000, np.int32)
    samples = rng.integers(-3000, 3000, (8, int(sizes[0]))).astype(np.int16)
    batch = Batch(
        samples=samples,
        num_samples=sizes,
        prompt_samples=sizes // 2,
        text=np.full((8, 16), 5, np.int32),
        text_mask=mask,
        text_loss_mask=mask,
        token_ends=np.zeros((8, 16), np.int32),
    )
    known = None if stage == "text_lm" else statistics
    with jax.set_mesh(mesh):
        state = make_program(made, made.stage(stage), known, [batch], mesh).init()
        params = dict(state.params)
        for head in {"lm", "ctc_head"} & set(params):
            # Larger: an untrained LM would write one letter for ever, an untrained recogniser hear nothing.
            params[head] = jax.tree.map(lambda x: x * 5, params[head])
        state = dataclasses.replace(state, params=params)
        with Checkpointer(folder / stage / "checkpoints") as saver:
            saver.save(1, state, make_meta(made, stage, known))
    return folder / stage
