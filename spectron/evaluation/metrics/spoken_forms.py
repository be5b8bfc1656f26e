"""Texts as scorers of answers compare them: what is written and what is spoken become the same words.

"July 4th" and "the fourth of July", "World War II" and "world war two", "J.K. Rowling" and "j k rowling", "1960s" and
"nineteen sixties", "$5m" and "five million dollars", "5 km" and "five kilometres". English only; all rules are ours.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from spectron.evaluation.metrics.unit_names import (
    COMPOUNDS,
    CURRENCIES,
    PER_HOUR,
    SCALE_LETTERS,
    SCALES,
    SYMBOLS,
    UNITS,
)
from spectron.utils.number_words import ordinal_of, to_digits
from spectron.utils.plain_words import plain_words

MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november"),
    "december",
)
_MONTH_OF = {month: month for month in MONTHS} | {month[:3]: month for month in MONTHS} | {"sept": "september"}
_NUMBER = re.compile(r"\d+(\.\d+)?")
_DAY = re.compile(r"([12]?\d|3[01])(st|nd|rd|th)?")
_YEAR = re.compile(r"[12]\d{3}")

_ISO_DATE = re.compile(r"\b(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])\b")
_YEARS = re.compile(r"\b([12]\d)(\d\d)\s*[-–—]\s*([12]\d)?(\d\d)\b")  # 1914–1918, 1914–18
_SHORT_DECADE = re.compile(r"(?<!\w)['’‘]([2-9]0)['’]?s\b")  # '60s
_MONEY = re.compile(
    rf"(?:\b[A-Z]{{1,2}})?([{''.join(CURRENCIES)}])\s?(\d[\d,]*)(?:\.(\d+))?"
    rf"(?:\s?({'|'.join(SCALE_LETTERS)})\b|\s+({'|'.join(SCALES)})\b)?",
    re.IGNORECASE,
)
_FEET = re.compile(r"(?<=\d)\s?['′]\s?(\d+)\s?(?:[\"″”]|''|′′)?")  # 5'11"
_ROMAN = re.compile(r"(?<=[^\W\d_]\s)(?:[IVXLC]+|[ivx]{2,})\b(?!['’]\w)")
_CANONICAL_ROMAN = re.compile(r"(C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
# Words before "I" that make it the pronoun although a capital letter begins them.
_BEFORE_PRONOUN = re.compile(
    "actually|am|and|as|because|but|can|could|did|do|had|have|here|hi|honestly|how|if|may|maybe|must|no|now|oh|ok|okay|"
    "once|or|perhaps|should|since|so|sorry|sure|than|that|then|there|think|today|was|well|what|when|where|which|while|"
    "who|why|will|would|yes|yesterday",
    re.IGNORECASE,
)


@functools.lru_cache(4096)
def readings(text: str) -> tuple[tuple[str, ...], ...]:
    """Every way in which a text is compared: words in lower case with numbers in digits, articles kept.

    The first reading changes nothing else. In the others dates, decades, initials, currencies and units have one form
    however they were written or spoken; a roman numeral is a cardinal in one and an ordinal in another ("World War II",
    "Henry VIII"); and an "a" or "i" before initials belongs to them or does not.
    """
    found = [tuple(to_digits(plain_words(text)))]
    written = _written_out(text)
    for numerals in dict.fromkeys((written, _without_romans(written, False), _without_romans(written, True))):
        words = to_digits(_parted(plain_words(numerals)))
        for rule in (_scaled, _dates, _decades, _measures):
            words = rule(words)
        found += [tuple(_joined_initials(words, keep)) for keep in (True, False)]
    return tuple(dict.fromkeys(found))


# Rules for the text as it is written.


def _written_out(text: str) -> str:
    """Symbols as words, in the order in which they are spoken: "$5m" → "5 million dollars"."""
    text = _ISO_DATE.sub(lambda m: f"{MONTHS[int(m[2]) - 1]} {int(m[3])} {m[1]}", text)
    text = _YEARS.sub(lambda m: f"{m[1]}{m[2]} to {m[3] or m[1]}{m[4]}", text)
    text = _SHORT_DECADE.sub(r"19\1s", text)
    text = _MONEY.sub(_money, text)
    text = _FEET.sub(r" foot \1 ", text)
    for pattern, words in SYMBOLS:
        text = pattern.sub(words, text)
    return text


def _money(match: re.Match[str]) -> str:
    symbol, whole, fraction, letter, scale = match.groups()
    unit, part = CURRENCIES[symbol]
    scale = scale or SCALE_LETTERS.get((letter or "").lower(), "")
    if fraction and len(fraction) == 2 and not scale:
        return f" {whole} {unit} {fraction} {part} " if fraction != "00" else f" {whole} {unit} "
    return f" {whole}{'.' + fraction if fraction else ''} {scale} {unit} "


def _without_romans(text: str, ordinal: bool) -> str:
    """Roman numerals after a word in digits: "Henry VIII" → "Henry 8", or "Henry 8th"."""
    if text.isupper():
        text = text.lower()  # "I" is then not told from "i"

    def digits(match: re.Match[str]) -> str:
        numeral = match[0].upper()
        if not _CANONICAL_ROMAN.fullmatch(numeral) or not _is_numeral(match):
            return match[0]
        values = [_ROMAN_VALUES[letter] for letter in numeral]
        value = sum(v if v >= max(values[i:]) else -v for i, v in enumerate(values))
        return ordinal_of(value) if ordinal else str(value)

    return _ROMAN.sub(digits, text)


def _is_numeral(match: re.Match[str]) -> bool:
    """Whether a single letter is a numeral ("Elizabeth I"), not a pronoun or an initial; True for several letters."""
    if len(match[0]) > 1:
        return True
    before = match.string[: match.start()].split()[-1]
    after = match.string[match.end() : match.end() + 1]
    named = before[:1].isupper() and not _BEFORE_PRONOUN.fullmatch(before)
    return match[0] in "IVX" and named and after != "."


# Rules for words in lower case.


def _parted(words: Sequence[str]) -> list[str]:
    """Letters and digits of a word apart: "5km" → "5 km", "mp3" → "mp 3"; not those of ordinals, decades and names."""
    out: list[str] = []
    for word in words:
        parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", word)
        letters = [part for part in parts if not part[0].isdigit()]
        keep = len(parts) < 2 or re.fullmatch(r"\d+(st|nd|rd|th|s)", word) or max(map(len, letters), default=9) > 3
        out += [word] if keep else parts
    return out


def _scaled(words: Sequence[str]) -> list[str]:
    """ "1.5 million" → "1500000"."""
    out: list[str] = []
    for word in words:
        if word in SCALES and out and "." in out[-1] and _NUMBER.fullmatch(out[-1]):
            whole, _, fraction = out[-1].partition(".")
            zeros = SCALES[word] - len(fraction)
            if zeros >= 0:
                out[-1] = (whole + fraction + "0" * zeros).lstrip("0") or "0"
                continue
        out.append(word)
    return out


def _dates(words: Sequence[str]) -> list[str]:
    """Month, day, year: "the 4th of july" and "4 july" → "july 4"; "sept 11th" → "september 11"; "july of 1776"."""
    out: list[str] = []
    i = 0
    while i < len(words):
        day, end = _day_before_month(words, i)
        if not end:
            month = _MONTH_OF.get(words[i], "")
            day, after = _day_at(words, i + 1) if month else ("", 0)
            of_year = month and words[i + 1 : i + 2] == ["of"] and _YEAR.fullmatch("".join(words[i + 2 : i + 3]))
            end = after if day else i + 2 if of_year else i + 1
            # Alone, "mar" and "sep" are not months.
            out += [month, day] if day else [month] if of_year else [words[i]]
        else:
            out += [_MONTH_OF[words[end - 1]], day]
        i = end
    return out


def _day_at(words: Sequence[str], i: int) -> tuple[str, int]:
    """(the day at i, where it ends), perhaps after "the"; ("", i) if there is none."""
    at = i + (words[i : i + 1] == ["the"])
    match = _DAY.fullmatch(words[at]) if at < len(words) else None
    return (match[1], at + 1) if match else ("", i)


def _day_before_month(words: Sequence[str], i: int) -> tuple[str, int]:
    """(day, end) of "4 july", "the 4th of july"; ("", 0) if that is not at i."""
    day, at = _day_at(words, i)
    of = words[at : at + 1] == ["of"]
    month = _MONTH_OF.get("".join(words[at + of : at + of + 1]), "") if day else ""
    # Of "july 4 may 5" the 4 belongs to July.
    if not month or (not of and _day_at(words, at + 1)[0]):
        return "", 0
    return day, at + of + 1


def _decades(words: Sequence[str]) -> list[str]:
    """ "the 60s" → "1960s"."""
    short = re.compile(r"[2-9]0s")
    out: list[str] = []
    for i, word in enumerate(words):
        out.append(f"19{word}" if i and words[i - 1] == "the" and short.fullmatch(word) else word)
    return out


def _measures(words: Sequence[str]) -> list[str]:
    """A number and its unit: the unit written out, in the singular, in American spelling."""
    out: list[str] = []
    i = 0
    while i < len(words):
        out.append(words[i])
        i += 1
        if not _NUMBER.fullmatch(out[-1]):
            continue
        power = {"sq": "square", "square": "square", "cu": "cubic", "cubic": "cubic"}.get("".join(words[i : i + 1]), "")
        unit = UNITS.get("".join(words[i + bool(power) : i + bool(power) + 1]), "")
        if words[i : i + 2] == ["per", "cent"]:
            unit, i = "percent", i + 1
        if not unit:
            continue
        out += [*filter(None, [power]), *unit.split()]
        i += 1 + bool(power)
        if words[i : i + 1] in (["a"], ["an"]) and words[i + 1 : i + 2] in (["hour"], ["second"]):
            out.append("per")
            i += 1
        if unit == "degree":
            i = _temperature(words, i, out)
    return _short_compounds([PER_HOUR.get(word, word) for word in out])


def _temperature(words: Sequence[str], i: int, out: list[str]) -> int:
    scale = {"c": "celsius", "centigrade": "celsius", "celsius": "celsius", "f": "fahrenheit"}.get(
        "".join(words[i : i + 1]), ""
    )
    out += [scale] if scale else []
    return i + bool(scale)


def _short_compounds(words: Sequence[str]) -> list[str]:
    """ "5 foot and 11 inch" → "5 foot 11": the smaller unit need not be named."""
    out: list[str] = []
    i = 0
    while i < len(words):
        out.append(words[i])
        i += 1
        smaller = COMPOUNDS.get(out[-1]) if len(out) > 1 and _NUMBER.fullmatch(out[-2]) else None
        start = i + (words[i : i + 1] == ["and"])
        if smaller and start < len(words) and _NUMBER.fullmatch(words[start]) and words[start + 1 : start + 2] in (
            [[each] for each in smaller]
        ):  # fmt: skip
            out.append(words[start])
            i = start + 2
    return out


def _joined_initials(words: Sequence[str], keep: bool) -> list[str]:
    """Letters in a row as one word: "j k rowling" → "jk rowling".

    keep: whether an "a" or "i" before two or more other letters is one of them, and not a word of its own.
    """
    out: list[str] = []
    i = 0
    while i < len(words):
        end = i
        while end < len(words) and len(words[end]) == 1 and words[end].isalpha():
            end += 1
        if end - i > 2 and words[i] in ("a", "i") and not keep:
            out.append(words[i])
            i += 1
        out.append("".join(words[i:end]) if end - i > 1 else words[i])
        i = max(end, i + 1)
    return out
