"""Rules for the value of one setting: a range, a choice of names, a file name, or a rule for each element of a list.

`rule.problem(value)` is "" for a valid value, else the end of a sentence that begins with the key and the value.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

MAX_INT = 2**31 - 1  # sizes and counts are int32 on devices
MAX_FLOAT = 3.4e38  # the largest float32, rounded down


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high. above, below: low, or high, is excluded."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        return low and (value < self.high if self.below else value <= self.high)

    def problem(self, value: float) -> str:
        """Names the range, and the nearest valid value if the limit that is exceeded is itself valid."""
        if value in self:
            return ""
        too_high = value > self.high or (self.below and value == self.high)
        limits = []
        if self.low > -MAX_FLOAT:
            limits.append(f"{'above' if self.above else 'at least'} {number(self.low)}")
        if too_high or self.high not in (MAX_INT, MAX_FLOAT):  # which are not worth a word otherwise
            limits.append(f"{'below' if self.below else 'at most'} {number(self.high)}")
        valid = " and ".join(limits) or "a finite number"
        if value != value or (self.below if too_high else self.above):
            return f"must be {valid}"
        return f"must be {valid}; the nearest valid value is {number(self.high if too_high else self.low)}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """One of several names."""

    names: tuple[str, ...]

    def problem(self, value: str) -> str:
        """Suggests the nearest name, and lists all."""
        if value in self.names:
            return ""
        close = difflib.get_close_matches(value.lower(), self.names, 1, 0.5)
        hint = f"did you mean {close[0]}? Known: " if close else "use one of: "
        return f"is unknown; {hint}{', '.join(self.names)}"


@dataclasses.dataclass(frozen=True)
class FileName:
    """A name that is also the name of a folder."""

    def problem(self, value: str) -> str:
        """Suggests a name without the characters that a folder cannot have."""
        if value.isprintable() and "/" not in value and value.strip(" .") and len(value.encode()) <= 200:
            return ""
        near = re.sub(r"[^\w.-]+", "_", value).strip("._")[:50]
        return f"cannot be the name of a folder; use letters and digits, such as {near or 'name'}"


@dataclasses.dataclass(frozen=True)
class Each:
    """A list whose elements all obey one rule."""

    rule: Any


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A list of pairs, each first element at most once, whose elements obey a rule each."""

    first: Any
    second: Any


@dataclasses.dataclass(frozen=True)
class Free:
    """Any value of the field's type: text and booleans, and nested settings, which have rules of their own."""

    def problem(self, value: Any) -> str:
        """Nothing is wrong with it."""
        return ""


def whole(low: int = 0, high: int = MAX_INT) -> Range:
    """Whole numbers from low to high."""
    return Range(low, high)


def real(low: float = 0.0, high: float = MAX_FLOAT) -> Range:
    """Finite numbers from low to high."""
    return Range(low, high)


FREE = Free()
COUNT = whole(1)
SEED = whole(0, 2**32 - 1)  # jax.random.key keeps 32 bits, and NumPy's generators take no negative seed
ANY = real(-MAX_FLOAT)
POSITIVE = Range(0.0, MAX_FLOAT, above=True)
SHARE = real(0.0, 1.0)
RATE = Range(0.0, 1.0, below=True)  # of dropout, of decay: 1 would drop, or keep, everything


def number(value: float) -> str:
    """A limit as it would be written in a config."""
    return str(int(value)) if value == int(value) and abs(value) < 1e16 else repr(value)


def shown(value: Any) -> str:
    """A value as a config would write it, on one line and not too long."""
    if isinstance(value, int) and value.bit_length() > 256:  # Python refuses to write one of many thousands
        return f"(a number of {int(value.bit_length() * math.log10(2)) + 1} digits)"
    if isinstance(value, str) and value and value.isprintable() and not re.search(r"[\s'\"]", value):
        text = value
    else:
        try:
            text = " ".join(repr(value).split("\n"))
        except Exception:  # the repr of a class from outside, or of a list with an enormous number
            text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}…"


def at(key: str, name: str) -> str:
    """The dotted key of a setting below `key`, which may be ""."""
    return f"{key}.{name}" if key else name


def doubled(names: Sequence[str], key: str) -> Iterator[str]:
    """A sentence for each name that a list has twice."""
    for name, times in collections.Counter(names).items():
        if times > 1:
            yield f"{key} names {name!r} twice; keep one."
