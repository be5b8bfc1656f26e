"""Sequences of different lengths as padded batches of few different shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class PaddedBatch(NamedTuple):
    """indices: which sequences the first rows hold; values: [rows, size, …] padded with zeros; lengths: int32 [rows].

    Rows after the last sequence are empty, so that all batches of one size run the same compiled program.
    """

    indices: list[int]
    values: np.ndarray
    lengths: np.ndarray


def batches_by_length(
    sequences: Sequence[Any], rows: int, padded_length: Callable[[int], int], dtype: Any = np.int16
) -> Iterator[PaddedBatch]:
    """All sequences in batches of `rows`, similar lengths together, so that little padding is computed.

    padded_length: length of a batch's longest sequence → the batch's padded length (monotonic); it decides
    how many different shapes are compiled.
    """
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(order), rows):
        indices = order[start : start + rows]
        size = padded_length(len(sequences[indices[-1]]))
        values = np.zeros((rows, size, *np.shape(sequences[indices[0]])[1:]), dtype)
        lengths = np.zeros(rows, np.int32)
        for row, i in enumerate(indices):
            lengths[row] = len(sequences[i])
            values[row, : lengths[row]] = sequences[i]
        yield PaddedBatch(indices, values, lengths)


def round_up(size: int, step: int) -> int:
    """The least multiple of `step` that is at least `size`, and at least one step."""
    return max(1, -(-size // step)) * step
