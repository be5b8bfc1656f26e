"""Scorers of answers against references, from the paper's to the strictest.

All but the paper's compare the readings of spoken_forms, in which written and spoken forms are the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from spectron.evaluation.metrics.spoken_forms import readings

Scorer = Callable[[Sequence[str], str], bool]  # (references, answer) → right?

ARTICLES = ("a", "an", "the")
SHORT = 2  # characters of a short answer, at most
_POSSESSIVE = re.compile(r"(?<=\w)['’‘`´]s\b", re.IGNORECASE)


def tokens(text: str) -> list[str]:
    """The first of a text's readings (spoken_forms) without articles, unless nothing else is there ("The The").

    "The Twenty-First  Café!" → 21st, cafe.
    """
    return _without_articles(readings(text)[0])


def _without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in ARTICLES] or list(words)


def substring(references: Sequence[str], said: str) -> bool:
    """The paper's scorer: a lower-cased reference occurs in the lower-cased text, also inside another word.

    Nothing else is done to either, so "Zürich", "5" and "the Alps" are not found in "zurich", "five" and "alps".
    Blank references are left out.
    """
    heard = said.lower()
    return any(reference.strip().lower() in heard for reference in references if reference.strip())


def contains(references: Sequence[str], said: str) -> bool:
    """A reference's tokens occur in the answer's tokens as one run. References without tokens are left out."""
    return any(_run(wanted, heard) for wanted, heard in _compared(references, said))


def exact(references: Sequence[str], said: str) -> bool:
    """A reference's tokens are the answer's tokens, no more and no fewer. References without tokens are left out."""
    return any(wanted == heard for wanted, heard in _compared(references, said))


def _compared(references: Sequence[str], said: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yields (reference tokens, answer tokens) variants: every reading of a reference with every one of the answer.

    A reference of only articles keeps them. If it ends in an article ("Vitamin A"), that one is kept in both: in the
    answer, each such article in turn. Possessives are also tried without "'s".
    """
    answers = dict.fromkeys(words for text in (said, _POSSESSIVE.sub("", said)) for words in readings(text))
    wanted = dict.fromkeys(words for reference in references for words in readings(reference) if words)
    for words in wanted:
        named = words[-1] in ARTICLES and any(word not in ARTICLES for word in words)
        tokens = [*_without_articles(words), *(words[-1:] if named else ())]
        for heard in answers:
            if named:
                for i in (i for i, word in enumerate(heard) if word == words[-1]):
                    yield tokens, [w for k, w in enumerate(heard) if k == i or w not in ARTICLES]
            else:
                yield tokens, list(heard) if tokens[-1] in ARTICLES else _without_articles(heard)


def _run(wanted: list[str], heard: list[str]) -> bool:
    return any(heard[i : i + len(wanted)] == wanted for i in range(len(heard) - len(wanted) + 1))


def is_short(references: Sequence[str]) -> bool:
    """Whether a reference has at most two characters: `substring` finds it inside many a word ("us" in "because")."""
    return any(0 < len(reference.strip()) <= SHORT for reference in references)


SCORERS: dict[str, Scorer] = {"substring": substring, "contains": contains, "exact": exact}
DEFINITIONS = {
    "substring": "The paper's: answers whose lower-cased text holds a lower-cased reference, inside a word too.",
    "contains": "Share of answers whose normalised tokens hold those of a reference as one run (lower case, "
    "accents folded, punctuation and articles dropped, but for one that ends a reference (Vitamin A), number words as "
    "digits, a possessive with or without its 's; dates, decades, roman numerals, initials, currencies and units as "
    "written or as spoken).",
    "exact": "Share of answers whose normalised tokens are those of a reference, no more and no fewer.",
}
SHORT_NOTE = f"Short: a reference of at most {SHORT} characters, which is found by chance inside many a word."
