"""Word error rate, over texts normalised as published systems are compared."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from spectron.evaluation.metrics.intervals import average
from spectron.evaluation.results import Figure
from spectron.types import UserError
from spectron.utils.edit_distance import edit_distance
from spectron.utils.plain_words import MARKS, hide_marks, show_marks

Normaliser = Callable[[str], list[str]]  # a text → its words as they are compared

RATE = "Word error rate: substitutions, deletions and insertions of the best alignment over the reference's words."
ENGLISH = (
    "Both texts as Whisper's English normaliser gives them (arXiv:2212.04356: lower case, without punctuation, "
    "brackets and fillers, contractions written out, numbers in digits), but with British spellings left as they are "
    f"and {MARKS}."
)
PLAIN = f"Both texts in lower case, without accents and punctuation, {MARKS}."
WER = f"{RATE} {ENGLISH}"


def english_words(text: str) -> list[str]:
    """Whisper's English normaliser. Raises UserError if transformers is missing.

    Its list of British spellings is a file of Whisper's weights, not of the package: spellings stay as they are. It
    would drop every mark, and with them the vowels of Devanagari, Thai and others: those of plain_words are kept.
    """
    return [show_marks(word) for word in _whisper_normaliser()(hide_marks(text)).split()]


@functools.cache
def _whisper_normaliser() -> Callable[[str], str]:
    try:
        from transformers.models.whisper.english_normalizer import EnglishTextNormalizer
    except ImportError as error:
        raise UserError(f"Word errors need the package {error.name!r}; pip install 'spectron-jax[eval]'.") from error
    normaliser: Callable[[str], str] = EnglishTextNormalizer({})
    return normaliser


def word_errors(reference: str, hypothesis: str, words: Normaliser = english_words) -> tuple[int, int]:
    """(errors, words of the reference) of one utterance."""
    expected = words(reference)
    return edit_distance(expected, words(hypothesis)), len(expected)


def wer_figure(label: str, errors: Sequence[float], words: Sequence[float], definition: str = WER) -> Figure:
    """Σ errors / Σ words, with a bootstrap interval over utterances."""
    return average(label, errors, definition, "%", words)
