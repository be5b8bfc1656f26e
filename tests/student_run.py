"""A noisy student loop small enough to be killed and started again by tests: `python student_run.py ROOT WORKDIR`.

Letters are tones: a recogniser of two thousand parameters hears them after a minute of recordings.
"""

import json
import sys
from pathlib import Path

import numpy as np

from spectron.config import (
    CharactersConfig,
    ConformerConfig,
    CTCConfig,
    DataConfig,
    Experiment,
    FeatureConfig,
    MixtureConfig,
    ModelConfig,
    MuonConfig,
    SpecAugmentConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
)
from spectron.config.noisy_student import (
    BeamConfig,
    GenerationConfig,
    LanguageModelConfig,
    LoopConfig,
    SelectionConfig,
    SplitConfig,
)

WORDS = ("AB", "BAC", "CA", "ACB", "B")
HERTZ = {"A": 400, "B": 1000, "C": 2500, " ": 0}
SPOKEN = 0.12  # seconds a letter


def say(text: str, rng: np.random.Generator) -> np.ndarray:
    """int16 [S]: a tone per letter, silence per space, all in noise."""
    time = np.arange(round(16000 * SPOKEN)) / 16000
    fade = np.minimum(1, 8 * np.minimum(time, SPOKEN - time) / SPOKEN)
    tones = [np.sin(2 * np.pi * HERTZ[letter] * time) * fade for letter in f" {text} "]
    return (6000 * np.concatenate(tones) + 100 * rng.normal(size=len(time) * len(tones))).astype(np.int16)


def write_corpus(root: Path, name: str, speakers: list[str], each: int) -> None:
    """ROOT/NAME: recordings and manifest.jsonl."""
    from spectron.audio import wav

    rows = []
    for speaker in speakers:
        rng = np.random.default_rng(int(speaker))
        for i in range(each):
            text = " ".join(rng.choice(WORDS, size=rng.integers(1, 5)))
            audio = f"{speaker}-{i}.wav"
            wav.write(root / name / audio, say(text, rng), 16000)
            rows.append({"id": f"{speaker}-{i}", "audio": audio, "text": text, "speaker": speaker})
    (root / name / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_all(root: Path) -> None:
    """The corpus of three speakers, the held-out one of one of them and another, and text."""
    write_corpus(root, "corpus", ["1", "2", "3"], 100)
    write_corpus(root, "held", ["3", "4"], 10)
    lines = (root / "corpus" / "manifest.jsonl").read_text().splitlines()
    (root / "text.txt").write_text("\n".join(json.loads(line)["text"] for line in lines[:100]) + "\n")


def experiment(name: str, mixture: str, steps: int) -> Experiment:
    """A second of compiling."""
    data = DataConfig(
        reader="direct",
        tasks=(TaskConfig("labelled", "shards"), TaskConfig("pseudo", "shards")),
        mixtures=(MixtureConfig("mixed", (("labelled", 0.5), ("pseudo", 0.5))),),
        vocabulary=CharactersConfig((" ", "A", "B", "C")),
        prompt_seconds=0.0,
        min_continuation_seconds=0.1,
        max_seconds=2.4,
        max_continuation_seconds=2.4,
        max_tokens=24,
    )
    features = FeatureConfig(num_mels=16, low_hz=100.0, window_seconds=0.025, hop_seconds=0.01)
    encoder = ConformerConfig(
        features=features, dim=24, num_layers=1, num_heads=2, kernel_size=3, ff_multiple=2, conv_channels=24,
        dropout=0.0, specaugment=SpecAugmentConfig(0, 0),
    )  # fmt: skip
    optimizer = MuonConfig(0.03, adam_learning_rate=5e-3, warmup_steps=5)
    stage = StageConfig("ctc", (StreamConfig(CTCConfig(), mixture, 8),), steps, optimizer, save_every=10)
    return Experiment(name, data, (stage,), features, ModelConfig(encoder=encoder, scan_layers=False))


def loop(root: str) -> LoopConfig:
    """Teacher and two students."""
    keep = SelectionConfig(keep=0.8, bucket_tokens=4)
    return LoopConfig(
        "tones",
        SplitConfig("corpus/manifest.jsonl", "held/manifest.jsonl", labelled_share=1 / 3),
        (
            GenerationConfig("teacher", experiment("teacher", "labelled", 120)),
            GenerationConfig("one", experiment("one", "mixed", 20), keep, start_from_previous=True),
            GenerationConfig("two", experiment("two", "mixed", 20), keep),
        ),
        LanguageModelConfig(("text.txt",), order=2),
        BeamConfig(beam=10, lm_weights=(0.5, 1.0), word_bonuses=(0.0,), tuning_utterances=5),
        root=root,
    )


if __name__ == "__main__":
    from spectron.noisy_student import loop as student

    print(student.markdown(student.run(loop(sys.argv[1]), sys.argv[2])))
