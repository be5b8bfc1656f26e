"""Scorers of answers against references, from the paper's to the strictest, on texts in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from spectron.utils.number_words import to_digits
from spectron.utils.plain_words import plain_words

Scorer = Callable[[Sequence[str], str], bool]  # (references, answer) → right?

ARTICLES = ("a", "an", "the")
SHORT = 2  # characters of a short answer, at most
_POSSESSIVE = re.compile(r"(?<=\w)['’‘`´]s\b", re.IGNORECASE)


def tokens(text: str) -> list[str]:
    """plain_words with number words as digits and without articles, unless nothing else is there ("The The").

    "The Twenty-First  Café!" → 21st, cafe.
    """
    words = to_digits(plain_words(text))
    return [word for word in words if word not in ARTICLES] or words


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
    """Yields (reference tokens, answer tokens) variants.

    A reference of only articles keeps them. If it ends in an article ("Vitamin A"), that one is kept in both: in the
    answer, each such article in turn. Possessives are also tried without "'s".
    """
    for reference in references:
        words = to_digits(plain_words(reference))
        if not words:
            continue
        named = words[-1] in ARTICLES and any(word not in ARTICLES for word in words)
        wanted = [*tokens(reference), *(words[-1:] if named else ())]
        for heard in dict.fromkeys((said, _POSSESSIVE.sub("", said))):
            heard_words = to_digits(plain_words(heard))
            if named:
                for i in (i for i, word in enumerate(heard_words) if word == words[-1]):
                    yield wanted, [w for k, w in enumerate(heard_words) if k == i or w not in ARTICLES]
            else:
                yield wanted, heard_words if wanted[-1] in ARTICLES else tokens(heard)


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
    "digits, a possessive with or without its 's).",
    "exact": "Share of answers whose normalised tokens are those of a reference, no more and no fewer.",
}
SHORT_NOTE = f"Short: a reference of at most {SHORT} characters, which is found by chance inside many a word."
