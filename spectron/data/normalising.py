"""Text normalisers: the spelling that a task's texts get before they become tokens (TaskConfig.normaliser).

A language model that has read ordinary text knows "the train to London", and spells capitals with a piece for every
letter or two. Corpora of speech are often transcribed in capitals.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from spectron.config import VocabularyConfig
from spectron.data.vocabulary import Vocabulary, make_vocabulary
from spectron.types import UserError

KEEP = "keep"
KEPT_WORDS = 1 << 20  # ours: words whose spelling the true-caser remembers


class TrueCaser:
    """Gives each word the spelling that is the most usual one in a vocabulary: fewest tokens, then the best scores.

    Words are looked at one by one: the first word of a sentence gets no capital, and "will" is never a name.
    """

    def __init__(self, vocabulary: Vocabulary):
        """Raises UserError if the vocabulary tells no spelling from another."""
        try:
            vocabulary.rarity("a")
        except UserError as error:
            raise UserError(f"The normaliser 'truecase' needs a vocabulary that knows spellings. {error}") from error
        self._vocabulary = vocabulary
        self._spelling = functools.lru_cache(KEPT_WORDS)(self._best)

    def __call__(self, text: str) -> str:
        """The text in the vocabulary's case, its words separated by single spaces."""
        return " ".join(map(self._spelling, text.split()))

    def _best(self, word: str) -> str:
        lower = word.lower()
        spellings = (lower, lower[:1].upper() + lower[1:], lower.title(), word.upper(), word)
        return min(spellings, key=self._vocabulary.rarity)  # the first of equals


NORMALISERS: dict[str, Callable[[Vocabulary], Callable[[str], str]]] = {
    KEEP: lambda vocabulary: lambda text: text,
    "lower": lambda vocabulary: str.lower,
    "truecase": TrueCaser,
}


def make_normaliser(name: str, config: VocabularyConfig) -> Callable[[str], str]:
    """The function text → text of a task's normaliser, which keeps the number of words. Raises UserError."""
    return NORMALISERS[name](make_vocabulary(config))
