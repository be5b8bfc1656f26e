"""The CTC rule that turns a label for every frame into the labels written."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

BLANK = 0


def collapse(path: Int[np.ndarray, " T"]) -> list[int]:
    """One label a frame → the labels written: repeats become one, blanks (0) and padding (below 0) are dropped."""
    path = np.asarray(path, int)
    first_of_run = np.diff(path, prepend=-1) != 0
    return path[first_of_run & (path > BLANK)].tolist()
