"""Where one text ends inside a longer one: which words of a transcript are the prompt's, which the continuation's."""

from __future__ import annotations

from collections.abc import Sequence

from spectron.evaluation.scores.text_scores import plain_words


def fit_start(words: Sequence[str], longer: Sequence[str]) -> tuple[int, int]:
    """(errors, end): the first words longer[:end] that `words` fit best, by edit distance.

    What is known to come first (a prompt's words) is found in a text that goes on behind it, errors and all. Where
    none of them is found, the text begins at once: end is 0.
    """
    row = _last_row(words, longer)
    # Of equal distances the one nearest in length: a wrong last word is a wrong word, not a missing one.
    end = min(range(len(row)), key=lambda j: (row[j], abs(j - len(words))))
    return row[end], end if row[end] < len(words) else 0


def fit_text(text: str, longer: str) -> tuple[int, int, int]:
    """fit_start of plain words: (errors, how many words `text` has, end in words of `longer` between spaces)."""
    parts = [(part, i) for i, word in enumerate(longer.split()) for part in plain_words(word)]
    words = plain_words(text)
    errors, end = fit_start(words, [part for part, _ in parts])
    return errors, len(words), parts[end - 1][1] + 1 if end else 0


def distance(words: Sequence[str], others: Sequence[str]) -> int:
    """Substitutions, deletions and insertions between two lists of words."""
    return _last_row(words, others)[-1]


def _last_row(words: Sequence[str], longer: Sequence[str]) -> list[int]:
    """The distances of all words to longer[:0], longer[:1], …"""
    row = list(range(len(longer) + 1))
    for i, word in enumerate(words, 1):
        above, row = row, [i]
        for j, other in enumerate(longer, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (word != other)))
    return row
