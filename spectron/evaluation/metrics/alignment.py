"""Where a text ends inside a longer one: the question in a transcript, the prompt's words in an answer."""

from __future__ import annotations

from collections.abc import Sequence

from spectron.utils.edit_distance import edit_distance
from spectron.utils.plain_words import plain_words


def fit_start(words: Sequence[str], longer: Sequence[str]) -> tuple[int, int]:
    """(errors, end): words fit longer[:end] best, with that many word errors; end 0 if no word fits."""
    errors = [edit_distance(words, longer[:end]) for end in range(len(longer) + 1)]
    # Of equal distances the one nearest in length: a wrong last word is a wrong word, not a missing one.
    end = min(range(len(errors)), key=lambda j: (errors[j], abs(j - len(words))))
    return errors[end], end if errors[end] < len(words) else 0


def fit_text(text: str, longer: str) -> tuple[int, int, int]:
    """fit_start of plain words: (errors, how many words `text` has, end in words of `longer` between spaces)."""
    parts = [(part, i) for i, word in enumerate(longer.split()) for part in plain_words(word)]
    words = plain_words(text)
    errors, end = fit_start(words, [part for part, _ in parts])
    return errors, len(words), parts[end - 1][1] + 1 if end else 0
