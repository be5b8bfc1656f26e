"""int8 weights: symmetric, a scale per output channel, chosen by a parameter's name and shape alone.

Quantised are the kernels of Dense layers (the output channel is the second axis), the embedding and the LM head (a
scale per token). Norms, biases, depthwise convolutions and matrices of fewer than SMALL elements stay float32.
"""

from __future__ import annotations

import numpy as np

from spectron.checkpoints.export_format import Tensors
from spectron.types import Int8, UserError

SMALL = 4096  # ours: elements; smaller matrices are a few kilobytes, and the stop head is one of them
LARGEST = 127  # −128 is not used: as many steps below zero as above


def summed_axis(name: str, shape: tuple[int, ...]) -> int | None:
    """The axis whose elements share a scale, those that are summed into one output; None: the tensor stays as it is."""
    module, _, leaf = name.rpartition(".")
    if len(shape) != 2 or shape[0] * shape[1] < SMALL or module.endswith("depthwise"):
        return None
    return {"kernel": 0, "embedding": 1}.get(leaf)


def quantise(name: str, array: np.ndarray) -> np.ndarray | Int8:
    """Int8 where the rule says so, no weight further from the original than half its scale; else the array itself.

    Raises UserError for a weight that is no finite number.
    """
    axis = summed_axis(name, array.shape)
    if axis is None:
        return array
    if not np.isfinite(array).all():
        raise UserError(f"Parameter {name!r} holds NaN or infinity and cannot be quantised; export an earlier step.")
    peak = np.abs(array).max(axis=axis, keepdims=True).astype(np.float32)
    scale = np.maximum(peak / np.float32(LARGEST), np.finfo(np.float32).tiny)  # a channel of zeros divides by it
    # In float64: a quotient that float32 rounds up to the next half would be a whole step off.
    steps = np.rint(array.astype(np.float64) / scale)
    return Int8(steps.clip(-LARGEST, LARGEST).astype(np.int8), scale)


def quantised(tensors: Tensors) -> Tensors:
    """Every tensor of an export, int8 where the rule says so. Raises UserError."""
    return {name: quantise(name, array) for name, array in tensors.items()}
