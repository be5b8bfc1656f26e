"""English number words as digits: "one hundred and five" → "105", "nineteen eighty four" → "1984", "first" → "1st"."""

from __future__ import annotations

from collections.abc import Sequence

_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    "ten",
    "eleven",
    "twelve",
    *(word + "teen" for word in ("thir", "four", "fif", "six", "seven", "eigh", "nine")),
)
_TENS = tuple(word + "ty" for word in ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine"))
_FIRST = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
_ORDINALS = {
    **{word: i for i, word in enumerate(_FIRST)},
    **{word + "th": i for i, word in enumerate(_TEENS, 10)},
    "twelfth": 12,
    **{word[:-1] + "ieth": 10 * i for i, word in enumerate(_TENS, 2)},
}
_UNITS = {word: i for i, word in enumerate(_ONES)}
_SMALL = {word: i for i, word in enumerate(_TEENS, 10)} | {word: 10 * i for i, word in enumerate(_TENS, 2)} | _UNITS
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_LARGE_ORDINALS = {"hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_DECADES = {word[:-1] + "ies": 10 * i for i, word in enumerate(_TENS, 2)} | {"tens": 10}
_CENTURIES = range(10, 21)  # ours: "nineteen eighty" is a year; "thirty forty" is two numbers


def to_digits(words: Sequence[str]) -> list[str]:
    """Lower-case words with every number written in words as one word of digits; the other words as they are.

    Cardinals below 10^15 (with "and"; "a hundred", "2 million"), ordinals, decimals read digit by digit ("three point
    one four"), years of the tenth to twentieth hundred read as two numbers, decades ("nineteen sixties" → "1960s",
    "sixties" → "60s"). Digits that are read one by one and numbers that are counted stay separate: "one two" → "1 2",
    "ten eleven twelve" → "10 11 12".
    """
    out, i = [], 0
    while i < len(words):
        text, after = _number(words, i)
        out.append(text)
        i = after
    return out


def _number(words: Sequence[str], i: int) -> tuple[str, int]:
    """The word at i, or the number that begins there, and where it ends."""
    decade, end = _decade(words, i)
    if end > i:
        return f"{decade}s", end
    value, after, ordinal = _cardinal(words, i)
    if not ordinal and _word(words, after) in _LARGE_ORDINALS:
        return ordinal_of((value if after > i else 1) * _LARGE_ORDINALS[words[after]]), after + 1
    if after == i:
        return words[i], i + 1
    if ordinal:
        return ordinal_of(value), after
    year, end = _year(words, i)
    if end > after:
        return str(year), end
    if _word(words, after) == "point":
        end = after + 1
        while _word(words, end) in _UNITS:
            end += 1
        if end > after + 1:
            return f"{value}." + "".join(str(_UNITS[w]) for w in words[after + 1 : end]), end
    return str(value), after


def _decade(words: Sequence[str], i: int) -> tuple[int, int]:
    """(1960, end) of "nineteen sixties", (60, end) of "sixties"; (0, i) if there is none."""
    following = _word(words, i + 1)
    if words[i] in _DECADES and words[i] != "tens":
        return _DECADES[words[i]], i + 1
    if words[i] == "two" and following == "thousands":
        return 2000, i + 2
    century = _SMALL.get(words[i], 0)
    if century in _CENTURIES and (following in _DECADES or following == "hundreds"):
        return 100 * century + _DECADES.get(following, 0), i + 2
    return 0, i


def _year(words: Sequence[str], i: int) -> tuple[int, int]:
    """(1984, end) of "nineteen eighty four" or "nineteen oh five"; (0, i) if there is none."""
    century = _SMALL.get(words[i], 0)
    if century not in _CENTURIES:
        return 0, i
    if _word(words, i + 1) in ("oh", "o") and _UNITS.get(_word(words, i + 2), 0):
        return 100 * century + _UNITS[words[i + 2]], i + 3
    rest, after, ordinal = _below_hundred(words, i + 1)
    before, then = _SMALL.get(_word(words, i - 1), 0) if i else 0, _below_hundred(words, after)[0]
    counted = rest == century + 1 and (before == century - 1 or then == rest + 1)
    return (100 * century + rest, after) if rest >= 10 and not ordinal and not counted else (0, i)


def _cardinal(words: Sequence[str], i: int) -> tuple[int, int, bool]:
    """(value, end, whether it ended as an ordinal); end == i if no number begins."""
    total, smallest, start = 0, 0, i
    while True:
        begin = i + (i > start and _word(words, i) == "and")
        value, after, ordinal = _below_thousand(words, begin)
        scale = _SCALES.get(_word(words, after), 1) if not ordinal else 1
        if after == begin or (i > start and not 0 < value * scale < smallest):
            return total, i, False
        total += value * scale
        if scale == 1:
            return total, after, ordinal
        smallest, i = scale, after + 1


def _below_thousand(words: Sequence[str], i: int) -> tuple[int, int, bool]:
    """As _cardinal: "twenty one", "two hundred and five", "nineteen hundred"."""
    value, after, ordinal = _below_hundred(words, i)
    if ordinal or not value or _word(words, after) != "hundred":
        return value, after, ordinal
    begin = after + 1 + (_word(words, after + 1) == "and")
    rest, end, ordinal = _below_hundred(words, begin)
    return (100 * value + rest, end, ordinal) if rest else (100 * value, after + 1, False)


def _below_hundred(words: Sequence[str], i: int) -> tuple[int, int, bool]:
    word, following = _word(words, i), _word(words, i + 1)
    if word in _ORDINALS:
        return _ORDINALS[word], i + 1, True
    if (word == "a" or word.isdecimal()) and (following == "hundred" or following in _SCALES):
        return 1 if word == "a" else int(word), i + 1, False
    if word not in _SMALL:
        return 0, i, False
    value = _SMALL[word]
    if value >= 20 and _UNITS.get(following, 0):
        return value + _UNITS[following], i + 2, False
    if value >= 20 and 0 < _ORDINALS.get(following, 0) < 10:
        return value + _ORDINALS[following], i + 2, True
    return value, i + 1, False


def _word(words: Sequence[str], i: int) -> str:
    return words[i] if i < len(words) else ""


def ordinal_of(value: int) -> str:
    """21 → "21st"."""
    if value % 100 in (11, 12, 13):
        return f"{value}th"
    return f"{value}" + {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
