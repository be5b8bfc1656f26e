"""Word error rates of recognisers."""

from __future__ import annotations

from collections.abc import Sequence

from spectron.evaluation.scores.intervals import Figure, average
from spectron.types import UserError

WER = "Word error rate: substitutions, deletions and insertions of the best alignment over the words that were said."


def errors(said: str, written: str) -> tuple[int, int]:
    """(errors, words said) of one utterance."""
    try:
        import jiwer
    except ImportError as error:
        raise UserError("Word error rates need the package 'jiwer'; pip install 'spectron-jax[eval]'.") from error
    words = said.split()
    if not words:
        return len(written.split()), 0
    found = jiwer.process_words(said, written)
    return found.substitutions + found.deletions + found.insertions, len(words)


def word_error_rate(label: str, said: Sequence[str], written: Sequence[str], definition: str = WER) -> Figure:
    """Σ errors / Σ words with a bootstrap interval over utterances."""
    pairs = [errors(a, b) for a, b in zip(said, written, strict=True)]
    return average(label, [e for e, _ in pairs], definition, "%", [n for _, n in pairs])
