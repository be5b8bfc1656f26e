"""int8 weights: symmetric, one scale per output channel. Name and shape decide which parameters are quantised.

These are the kernels of Dense layers (the output channel is the second axis), the embedding and the LM head (one scale
per token). Norms, biases, depthwise convolutions and matrices of fewer than SMALL elements stay float32.
"""

from __future__ import annotations

import numpy as np

from spectron.checkpoints.export_format import Tensors
from spectron.types import Int8, UserError

SMALL = 4096  # ours, elements: smaller matrices, such as the stop head, take only a few kilobytes
LARGEST = 127  # −128 is not used, so that the range is symmetric


def summed_axis(name: str, shape: tuple[int, ...]) -> int | None:
    """The axis whose elements share a scale (they are summed into one output); None if the tensor is not quantised."""
    module, _, leaf = name.rpartition(".")
    if len(shape) != 2 or shape[0] * shape[1] < SMALL or module.endswith("depthwise"):
        return None
    return {"kernel": 0, "embedding": 1}.get(leaf)


def quantise(name: str, array: np.ndarray) -> np.ndarray | Int8:
    """An Int8 whose weights differ from the original by at most half a scale, or the array itself (see summed_axis).

    Raises UserError for NaN or infinity.
    """
    axis = summed_axis(name, array.shape)
    if axis is None:
        return array
    if not np.isfinite(array).all():
        raise UserError(f"Parameter {name!r} holds NaN or infinity and cannot be quantised; export an earlier step.")
    peak = np.abs(array).max(axis=axis, keepdims=True).astype(np.float32)
    scale = np.maximum(
        peak / np.float32(LARGEST), np.finfo(np.float32).tiny
    )  # not 0: a channel of zeros is divided by it
    # In float64: in float32 a quotient just below a half may be rounded up to it, and then to the wrong integer.
    steps = np.rint(array.astype(np.float64) / scale)
    return Int8(steps.clip(-LARGEST, LARGEST).astype(np.int8), scale)


def quantised(tensors: Tensors) -> Tensors:
    """All tensors of an export, quantised if `quantise` changes them. Raises UserError."""
    return {name: quantise(name, array) for name, array in tensors.items()}
