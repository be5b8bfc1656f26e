"""A counting world of tones: one pitch per digit, one timbre per speaker, so that the judges learn it in seconds."""

import os

import numpy as np
import pytest

from spectron.audio import wav
from spectron.config import DataConfig, Experiment, FeatureConfig, WordsConfig
from spectron.data.counting.utterances import WORDS

SPEAKERS = ("anna", "bert")
HUMS = (2800, 3400)  # Hz: what tells the speakers apart


def tone(digit: int, speaker: int, seconds: float) -> np.ndarray:
    """float [S] at 8 kHz."""
    t = np.arange(round(seconds * 8000)) / 8000
    edge = np.minimum(1, np.minimum(t, t[::-1]) / 0.02)
    return 0.3 * edge * (np.sin(2 * np.pi * 250 * 1.25**digit * t) + 0.3 * np.sin(2 * np.pi * HUMS[speaker] * t))


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Experiment:
    """An experiment on the tones; prepared clips go to a folder of this run."""
    root = tmp_path_factory.mktemp("tones")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    for s, speaker in enumerate(SPEAKERS):
        for digit in range(10):
            for index in (0, 1, 5, 6, 7):
                samples = tone(digit, s, 0.25 + 0.02 * index)
                path = root / "recordings" / f"{digit}_{speaker}_{index}.wav"
                wav.write(path, np.round(samples * 30000).astype(np.int16), 8000)
    data = DataConfig(
        root=str(root),
        vocabulary=WordsConfig(WORDS),
        max_seconds=4.8,
        max_prompt_seconds=2.4,
        max_continuation_seconds=2.4,
        max_tokens=8,
    )
    return Experiment("tones", data, (), FeatureConfig())


@pytest.fixture(scope="session")
def judges_dir(world, tmp_path_factory):
    """The judges of the tones, trained once."""
    from spectron.evaluation.counting import digit_judge, judges

    folder = tmp_path_factory.mktemp("judges")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judges.STEPS, "fsdd", 80)
        patch.setattr(digit_judge, "BATCH", 8)
        judges.get_judges(world, folder)
    return folder
