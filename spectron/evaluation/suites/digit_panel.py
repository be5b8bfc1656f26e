"""The counting world's own judges in the shape of any panel, and its utterances cut behind so many digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.config import Experiment, FeatureConfig, WordsConfig
from spectron.data.counting.utterances import PROMPT_DIGITS, WORDS, is_held_out, test_items
from spectron.evaluation.judges.digit_judges import VERSION, Judges, get_judges
from spectron.evaluation.judges.outside import checksum_of, facts
from spectron.evaluation.picking import spread
from spectron.evaluation.suites.panel import Panel
from spectron.evaluation.suites.utterances import Item, cut, cut_after_words
from spectron.types import Example, Hypothesis, UserError

PROMPTS = (1, 2, 4)  # ours: digits heard, beside the three of training; with one the step is not known
Recordings = Sequence[Int[np.ndarray, " S"]]


class DigitEars:
    """The digit judge as a recogniser."""

    name = "digit judge"

    def __init__(self, judges: Judges, clips: str, weights: Path):
        self.judges = judges
        self.facts = facts("speech recogniser", self.name, str(VERSION), {"clips": clips}, checksum_of([weights]))

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] at 16 kHz each → the digits as words."""
        found = self.judges.digits.hear(recordings)
        return [Hypothesis(" ".join(WORDS[d] for d in digits), 0.0, len(digits)) for digits in found]


class DigitVoices:
    """The speaker judge as an encoder: a vector of its own for every speaker, so that a cosine says right or wrong."""

    def __init__(self, judges: Judges, clips: str, weights: Path):
        self.speakers, settings = judges.speakers, {"clips": clips}
        self.facts = facts("speaker encoder", "speaker judge", str(VERSION), settings, checksum_of([weights]))

    def embed(self, recordings: Recordings) -> Float[np.ndarray, "N C"]:
        """int16 [S] at 16 kHz each → 1 at the speaker named, 0 elsewhere; all 0 for one too short to be named."""
        return self.of(self.speakers.name(recordings))

    def of(self, names: Sequence[str]) -> Float[np.ndarray, "N C"]:
        """The vectors of speakers known by name."""
        return np.stack([np.asarray([s == name for s in self.speakers.speakers], np.float32) for name in names])


def digit_panel(experiment: Experiment, judges_dir: str | Path) -> Panel:
    """Both judges, from their folder or trained into it. Raises UserError."""
    judges = get_judges(experiment.data, experiment.features, judges_dir)
    clips, folder = experiment.data.clips, Path(judges_dir)
    return Panel(
        asr=DigitEars(judges, clips, folder / "digits.npz"),
        speaker=DigitVoices(judges, clips, folder / "speakers.npz"),
    )


def digit_voices(panel: Panel, items: Sequence[Item]) -> list[Any]:
    """What Hearing.voices would say of the prompts if the judge never erred."""
    return [[vector] for vector in panel.speaker.of([item.speaker for item in items]).tolist()]


def pick_items(experiment: Experiment, repeats: int, limit: int) -> list[Example]:
    """The test items. Raises UserError when the model cannot spell digits or the recordings are missing."""
    vocabulary = experiment.data.vocabulary
    if isinstance(vocabulary, WordsConfig) and not set(vocabulary.words) >= set(WORDS):
        raise UserError(
            f"Experiment {experiment.name!r} has no words for digits: `evaluate counting` needs a checkpoint "
            f"trained on the counting world, such as configs/digits.py."
        )
    items = test_items(experiment.data, experiment.features, repeats)
    return spread(items, limit or len(items))


def digit_cuts(
    examples: Sequence[Example], digits: Sequence[int], features: FeatureConfig
) -> tuple[list[Item], dict[str, list[Item]]]:
    """(the items as in training, name → the items with prompts of so many digits). Raises UserError."""
    full = [cut(example, example.prompt_samples) for example in examples]
    cuts = {
        f"prompt of {n} digit{'s' if n > 1 else ''}": [
            cut_after_words(example, n, features.sample_rate, features.hop) for example in examples
        ]
        for n in digits
        if n != PROMPT_DIGITS
    }
    return full, cuts


def is_known(item: Item) -> bool:
    """Whether speech training holds an item's sequence; the others are known from text alone."""
    return not is_held_out([WORDS.index(word) for word in item.words])
