"""A small world to read from: digit clips of two made-up speakers, and an experiment over them."""

import os

import numpy as np
import pytest

from spectron.audio import wav
from spectron.config import DataConfig, Experiment, MixtureConfig, TaskConfig, WordsConfig
from spectron.data.counting import utterances

SPEAKERS = ("anna", "bert")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Prepared clips go to a folder of this run."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def clips_root(tmp_path_factory):
    """Upstream's layout: recordings/DIGIT_SPEAKER_INDEX.wav at 8 kHz; tones, so that digit and speaker can be told."""
    root = tmp_path_factory.mktemp("digits")
    for s, speaker in enumerate(SPEAKERS):
        for digit in range(10):
            for index in (0, 1, 5, 6):
                seconds = 0.2 + 0.01 * digit + 0.02 * index
                time = np.arange(round(8000 * seconds)) / 8000
                tone = 6000 * np.sin(2 * np.pi * (300 + 100 * digit + 37 * s) * time)
                wav.write(root / "recordings" / f"{digit}_{speaker}_{index}.wav", tone.astype(np.int16), 8000)
    return root


@pytest.fixture
def experiment(clips_root):
    data = DataConfig(
        root=str(clips_root),
        reader="direct",
        tasks=(
            TaskConfig("digits", "counting", size=50),
            TaskConfig("random", "random_digits", size=70),
            TaskConfig("texts", "counting_text"),
            TaskConfig("spoken", "spoken_digits", size=40),
            TaskConfig("test", "counting", split="test"),
        ),
        mixtures=(
            MixtureConfig("speech", (("digits", 0.5), ("random", 0.5))),
            MixtureConfig("all", (("digits", 0.3), ("random", 0.5), ("texts", 0.2))),
        ),
        vocabulary=WordsConfig(utterances.WORDS),
        max_seconds=4.0,
        max_prompt_seconds=3.0,
        max_continuation_seconds=3.0,
        max_tokens=8,
    )
    return Experiment("small", data, ())
