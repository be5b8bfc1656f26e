"""An Objective is init + loss for one kind of training; all of them run through the same loop."""

from __future__ import annotations

import difflib
from typing import Any, Protocol

from jaxtyping import Array

from spectron.config import Experiment, StreamConfig
from spectron.objectives.ctc import CTC
from spectron.objectives.joint import Joint
from spectron.objectives.text_lm import TextLM
from spectron.types import Batch, Losses, Params, Statistics, UserError

OBJECTIVES: dict[str, Any] = {"spectron": Joint, "text_lm": TextLM, "ctc": CTC}


class Objective(Protocol):
    """What training asks of a kind of training. `parts` are the top-level parameter names it reads and trains."""

    name: str
    parts: tuple[str, ...]

    def init(self, key: Array, batch: Batch) -> Params:
        """Fresh parameters {part: …}, boxed with their logical axes."""
        ...

    def loss(self, params: Params, batch: Batch, key: Array, train: bool = True) -> Losses:
        """Named losses of one batch; `train` turns dropout and SpecAugment on."""
        ...


def make_objective(
    name: str, experiment: Experiment, statistics: Statistics, stream: StreamConfig | None = None
) -> Objective:
    """The objective called `name`. Raises UserError for an unknown name."""
    if name not in OBJECTIVES:
        close = difflib.get_close_matches(name, OBJECTIVES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(OBJECTIVES)}."
        raise UserError(f"Unknown objective {name!r}; {hint}")
    return OBJECTIVES[name](experiment, statistics, stream or StreamConfig(name, ""))
