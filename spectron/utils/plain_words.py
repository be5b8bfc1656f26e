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
_OTHER = re.compile(r"(?<!\d)\.|\.(?!\d)|[^\w.]|_")  # all other punctuation ends a word


def plain_words(text: str) -> list[str]:
    """Lower-case words without accents or punctuation; numbers and articles as they were written.

    Apostrophes and the dots of abbreviations are dropped, all other punctuation separates words; "%" and "&" are
    written out.
    """
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    decomposed = unicodedata.normalize("NFKD", decomposed.casefold())  # "ℋ" is a capital H only now
    unmarked = "".join(character for character in decomposed if not unicodedata.combining(character))
    read_out = _THOUSANDS.sub("", unmarked.translate(_PLAIN))
    return _OTHER.sub(" ", _JOINED.sub("", read_out)).split()
