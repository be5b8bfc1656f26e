"""A tiny model whose answers depend on the prompt, in text and length, and what tests of its exports compare."""

import wave
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny_exports
import tiny_run

from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.types import Statistics, TrainState

RATE = 16000
# Ours: by so much random parameters are made louder until ten prompts get several texts and lengths.
LOUDER = {"encoder": 8, "connector": 8, "lm": 8, "stop": 8, "prenet": 2, "postnet": 2}
STOP_BIAS = -3.0


def write_checkpoint(folder: Path, *overrides: str) -> Path:
    """FOLDER/joint/checkpoints/7; returns FOLDER."""
    config = tiny_run.experiment(*tiny_exports.SIZES, *overrides)
    bands = config.features.num_mels
    heard = Statistics(np.linspace(-7, -5, bands, dtype=np.float32), np.full(bands, 3, np.float32))
    quiet = tiny_exports.random_params(*overrides, seed=1)
    params = {part: jax.tree.map(lambda x, part=part: LOUDER[part] * x, tree) for part, tree in quiet.items()}
    params["stop"]["bias"] += np.float32(STOP_BIAS)
    with Checkpointer(folder / "joint" / FOLDER) as saver:
        saver.save(7, TrainState(jnp.int32(7), params, {}, {}), make_meta(config, "joint", heard))
    return folder


def prompts(count: int, shortest: int = 5000, longest: int = 16000) -> list[np.ndarray]:
    """Noise, each of another length."""
    rng = np.random.default_rng(0)
    lengths = np.linspace(shortest, longest, count).astype(int)
    return [rng.integers(-4000, 4000, size).astype(np.int16) for size in lengths]


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, channels: int = 1) -> Path:
    """16-bit WAV, by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return path


def read_wav(path: Path) -> np.ndarray:
    """int16 [S] of a mono file at the model's rate."""
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def same_sound(samples: np.ndarray, live) -> None:
    """Samples but for rounding: 32 rounds of phases make a little more of a difference of 1e-5."""
    assert samples.dtype == np.int16 and samples.shape == live.samples.shape
    np.testing.assert_allclose(samples.astype(int), live.samples, atol=np.abs(live.samples).max() // 500 + 2)


def agree(text: str, frames: np.ndarray, samples: np.ndarray, live) -> None:
    """Text identical, log-mel to 1e-4, samples but for rounding."""
    assert text == live.transcript and frames.shape == live.frames.shape
    np.testing.assert_allclose(frames, live.frames, atol=1e-4)
    same_sound(samples, live)
