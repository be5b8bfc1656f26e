"""Stand-ins for a model and for judges: quick, and right or wrong where a test wants them."""

import numpy as np

from spectron.config import DataConfig, Experiment, FeatureConfig, WordsConfig
from spectron.types import Answer, Hypothesis

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox")
TICK = 4000  # samples of a spoken word in this world: a quarter of a second


def speak(words, voice=1000):
    """int16: a level per word, so that it can be heard again, above the voice's own."""
    parts = [np.full(TICK, voice + 10 * (1 + WORDS.index(word)), np.int16) for word in words]
    return np.concatenate(parts) if parts else np.zeros(0, np.int16)


def hear(samples):
    """The inverse of speak."""
    levels = [int(samples[at]) for at in range(0, len(samples) - TICK + 1, TICK)]
    return " ".join(WORDS[level % 1000 // 10 - 1] for level in levels if 0 < level % 1000 // 10 <= len(WORDS))


def voice_of(samples):
    return int(samples[0]) // 1000


class Ears:
    """A recogniser."""

    name, facts = "ears", {"role": "asr", "name": "ears", "version": "1"}

    def transcribe(self, recordings):
        return [Hypothesis(hear(r), 0.0, 0) for r in recordings]


class Reader:
    """A language model that finds every word as likely as one in e; two tokens a word."""

    def __init__(self):
        self.facts = {"role": "reader", "name": "reader", "version": "1"}

    def score(self, texts):
        assert all(texts)
        return [(-float(len(t.split())), 2 * len(t.split())) for t in texts]


class Voices:
    """A speaker encoder."""

    def __init__(self):
        self.facts = {"role": "voices", "name": "voices", "version": "1"}

    def embed(self, recordings):
        return np.stack([np.eye(8, dtype=np.float32)[voice_of(r)] for r in recordings])


class Quality:
    """A judge of quality."""

    def __init__(self):
        self.facts = {"role": "quality", "name": "quality", "version": "1"}
        self.measures = {"DNSMOS overall": "What people would say."}

    def rate(self, recordings, references):
        assert references == ()
        return [{"DNSMOS overall": 3.5} for _ in recordings]


class Vocabulary:
    """WORDS from id 4 on."""

    eos_id, unk_id = 1, 3

    def encode(self, text):
        return [4 + WORDS.index(word) for word in text.split()]


def experiment() -> Experiment:
    data = DataConfig(
        vocabulary=WordsConfig(WORDS), max_seconds=9.0, max_prompt_seconds=4.0,
        max_continuation_seconds=5.0, max_tokens=12, prompt_seconds=0.75, min_continuation_seconds=0.5,
    )  # fmt: skip
    return Experiment("talk", data, (), FeatureConfig(num_mels=16, low_hz=100.0))


class Talker:
    """Hears the prompt, writes it and the same words backwards, and says those; row 2 mishears its first word.

    Forced text is spoken instead: all that stands behind as many words as were heard. Without text it says "fox".
    """

    def __init__(self):
        self.experiment = experiment()
        self.features, self.vocabulary = self.experiment.features, Vocabulary()
        self.prompt_size = round(4.0 * 16_000)
        self.rows = []

    def generate(self, prompts, seed=0, batch_size=8, numbers=(), forced=()):
        self.rows += [(seed, number) for number in numbers]
        return [self.answer(p, seed, row, list(f)) for p, row, f in zip(prompts, numbers, forced, strict=True)]

    def answer(self, prompt, seed, row, forced):
        heard = hear(prompt).split()
        ids = Vocabulary().encode(" ".join(heard + heard[::-1]))
        if row == 2:
            ids[0] = 4 + (ids[0] - 3) % len(WORDS)
        ids = [i for i in forced if i != 1] if forced else ids
        words = [WORDS[i - 4] if i > 3 else "<unk>" for i in ids]
        speech = [w for w in words[len(heard) :] if w != "<unk>"] or ["fox"]
        if row == 2:
            speech[-1] = "fox"
        voice = 1000 * voice_of(prompt) if len(prompt) else 1000
        stopped_by = "maximum length" if (row, seed) == (1, 1) else "stop head"
        return Answer(" ".join(words), np.zeros((1, 1)), speak(speech, voice), stopped_by, tuple(ids))
