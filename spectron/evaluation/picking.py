"""Some of many, evenly spread: what --limit keeps, and what a page has room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(of: Sequence[T], most: int) -> list[T]:
    """At most so many of them, at equal distances."""
    if len(of) <= most:
        return list(of)
    return [of[i] for i in np.linspace(0, len(of) - 1, max(most, 0)).round().astype(int)]


def spreading(count: int) -> list[int]:
    """All numbers below `count` in an order whose every beginning is evenly spread (van der Corput's)."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: f"{i:0{bits}b}"[::-1])
