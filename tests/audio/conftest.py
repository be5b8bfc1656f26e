"""Signals for the audio tests: made ones, and real clips where the data folder is there."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spectron.audio import wav


def spoken(data_dir: Path, count: int = 6, digits: int = 3) -> list[np.ndarray]:
    """Utterances of real digits joined with near silence, int16 at 16 kHz."""
    folder = Path(data_dir) / "fsdd" / "recordings"
    speakers = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        parts = []
        for k in range(digits):
            (path,) = folder.glob(f"{(3 * i + k) % 10}_{speakers[i % 6]}_{i}.*")
            parts += [wav.read(path), np.round(3 * rng.normal(size=1600)).astype(np.int16)]
        made.append(np.concatenate(parts))
    return made


def voiced(seconds: float, pitch: float = 120.0, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """A gliding harmonic tone with breath noise and syllables, int16: like speech in harmonics and phases."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.2 * np.sin(2 * np.pi * 1.5 * t))) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, int(rate / 2 / (1.3 * pitch))))
    syllables = 0.05 + np.square(np.sin(2 * np.pi * 2 * t))
    return np.round(6000 * syllables * (tone + 0.05 * rng.normal(size=t.size))).astype(np.int16)


def batch(clips: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """int16 clips → samples [B, S] padded with zeros, num_samples int32 [B]."""
    samples = np.zeros((len(clips), max(map(len, clips))), np.int16)
    for row, clip in zip(samples, clips, strict=True):
        row[: len(clip)] = clip
    return samples, np.array([len(clip) for clip in clips], np.int32)


@pytest.fixture(scope="session")
def clips() -> SimpleNamespace:
    """The functions above; a fixture, so that tests need no import path to this folder."""
    return SimpleNamespace(spoken=spoken, voiced=voiced, batch=batch)
