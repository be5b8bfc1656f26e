"""Choosing from lists: evenly spaced items (what --limit keeps, and a page shows), and each value once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def evenly_spaced(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, at equal distances."""
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, max(most, 0)).round().astype(int)]


def evenly_spaced_order(count: int) -> list[int]:
    """All numbers below `count` in an order whose every prefix is evenly spaced (van der Corput's sequence)."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda i: f"{i:0{bits}b}"[::-1])


def once(values: Iterable[T]) -> list[T]:
    """Each value once, in order; they need not be hashable."""
    kept: list[T] = []
    for value in values:
        if value not in kept:
            kept.append(value)
    return kept
