"""Judges that need nothing: a voice is a pitch, a language model a price per letter, a recogniser a list."""

import json

import numpy as np

from spectron.evaluation.judges.base import facts
from spectron.types import Hypothesis

RATE = 16_000


def tone(pitch, seconds, amplitude=8000):
    """int16 [S]: the "voice" of a pitch in Hz."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * pitch * time)).astype(np.int16)


def manifest(folder, records):
    """FOLDER/items.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


class PitchEncoder:
    """Unit vectors of where the energy is, in bands of 100 Hz; zeros for silence."""

    facts = facts("speaker encoder", "pitch", "1", {}, "")

    def embed(self, recordings):
        out = np.zeros((len(recordings), 20), np.float32)
        for i, samples in enumerate(recordings):
            if np.any(samples):
                power = np.abs(np.fft.rfft(samples.astype(float))) ** 2
                bands = np.minimum((np.fft.rfftfreq(len(samples), 1 / RATE) / 100).astype(int), 19)
                out[i] = np.bincount(bands, power, 20)
                out[i] /= np.linalg.norm(out[i])
        return out


class LetterLM:
    """−ln p of a word is its letters; a token is a word. Continues with what it was told."""

    def __init__(self, continuations=()):
        self.facts = facts("language model", "letters", "1", {}, "")
        self.continuations = dict(continuations)

    def score(self, texts):
        return [(-float(sum(map(len, text.split()))), len(text.split())) for text in texts]

    def complete(self, prompts, max_tokens):
        return [" ".join(self.continuations.get(prompt, "").split()[:max_tokens]) for prompt in prompts]


class Level:
    """Quality is loudness: the share of full scale, beside the reference's where there is one; NaN for silence."""

    facts = facts("speech quality", "level", "1", {}, "")
    measures = {"Level": "Peak over full scale."}  # noqa: RUF012

    def rate(self, recordings, references=()):
        levels = [float(np.abs(x.astype(int)).max()) / 32768 if np.any(x) else float("nan") for x in recordings]
        return [{"Level": level} for level in levels]


class LengthRecogniser:
    """Hears the text that belongs to a recording's length in tenths of a second."""

    name = "length"

    def __init__(self, texts):
        self.texts = texts

    def transcribe(self, recordings):
        return [Hypothesis(self.texts.get(round(10 * len(x) / RATE), ""), -1.0, 1) for x in recordings]
