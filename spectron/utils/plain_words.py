"""The words of a text without case, accents and punctuation."""

from __future__ import annotations

import re
import unicodedata

# Letters that Unicode does not decompose into a plain one and a mark.
_PLAIN = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "%": " percent ", "&": " and "}
)
# "don't" → "dont", "U.S." → "us", "Ph.D." → "phd"; 3.14 keeps its point, and "Paris.The" is two words.
_JOINED = re.compile(r"['’‘`´]|(?<=\b[^\W\d_])\.(?=[^\W\d_]\b|\W|$)|(?<=[^\W\d_])\.(?=[^\W\d_]\.)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")  # 1,000 → 1000
_OTHER = re.compile(r"(?<!\d)\.|\.(?!\d)|[^\w.\U000f0000-\U0010ffff]|_")  # all other punctuation ends a word


# Marks of these names are points, accents or variants of a letter. All other marks (vowel signs, viramas, nuktas and
# tones of Devanagari, Thai, Khmer, …) are part of the spelling. Ours: which scripts; Whisper's normalisers
# (arXiv 2212.04356) drop or split at every mark.
_DROPPED = (
    *("COMBINING ", "VARIATION ", "ARABIC ", "HEBREW ", "SYRIAC ", "SAMARITAN ", "MONGOLIAN FREE ", "MUSICAL "),
    *("IDEOGRAPHIC ", "HANGUL ", "VEDIC "),
)
_KANA_VOICED = "\u3099\u309a"  # が and か differ by it
_CYRILLIC_LETTERS = ("и\u0306", "у\u0306", "і\u0308")  # й, ў and ї are letters of their own; ё is written е as well
_PRIVATE = 0xF0000  # planes of private use: marks that are kept stand there while other rules are applied
_OURS = re.compile("[\U000f0000-\U0010ffff]")
MARKS = "with the marks of scripts that spell with them (Devanagari, Thai, kana, …) kept"


def hide_marks(text: str) -> str:
    """Replace the marks that are part of the spelling by characters of private use, which other rules leave alone."""
    if text.isascii():
        return text
    hidden: list[str] = []
    for character in _OURS.sub(" ", text):
        parts = unicodedata.normalize("NFKD", character)
        previous = hidden[-1] if hidden else ""
        kept = [_is_spelling(mark, (parts[i - 1] if i else previous[-1:])) for i, mark in enumerate(parts)]
        if any(kept):
            character = "".join(chr(_PRIVATE + ord(c)) if keep else c for c, keep in zip(parts, kept, strict=True))
        hidden.append(character)
    return "".join(hidden)


def show_marks(word: str) -> str:
    """The inverse of hide_marks."""
    return word if word.isascii() else _OURS.sub(lambda match: chr(ord(match[0]) - _PRIVATE), word)


def _is_spelling(mark: str, base: str) -> bool:
    """Whether a character is a mark that tells words apart. base: the character before it."""
    if unicodedata.category(mark)[0] != "M":
        return False
    if mark in _KANA_VOICED or base.lower() + mark in _CYRILLIC_LETTERS:
        return True
    return not unicodedata.name(mark, "COMBINING ").startswith(_DROPPED)


def plain_words(text: str) -> list[str]:
    """Lower-case words without accents or punctuation; numbers and articles as they were written.

    Apostrophes and the dots of abbreviations are dropped, all other punctuation separates words; "%" and "&" are
    written out. Accents are those of Latin, Greek and Cyrillic letters, and the points of Arabic and Hebrew; the vowel
    signs and other marks of scripts that spell with them (Devanagari, Thai, kana, …) stay.
    """
    folded = hide_marks(text.casefold())
    decomposed = unicodedata.normalize("NFKD", folded)
    decomposed = unicodedata.normalize("NFKD", decomposed.casefold())  # "ℋ" is a capital H only now
    unmarked = "".join(character for character in decomposed if not unicodedata.combining(character))
    read_out = _THOUSANDS.sub("", unmarked.translate(_PLAIN))
    return [show_marks(word) for word in _OTHER.sub(" ", _JOINED.sub("", read_out)).split()]
