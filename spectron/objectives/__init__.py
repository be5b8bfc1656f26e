"""Objectives: one kind of training each; all of them run through the same loop."""

from spectron.objectives.base import OBJECTIVES as OBJECTIVES
from spectron.objectives.base import Objective as Objective
from spectron.objectives.base import make_objective as make_objective
from spectron.objectives.base import make_objectives as make_objectives
from spectron.objectives.ctc import CTC as CTC  # importing an objective registers it
from spectron.objectives.joint import Joint as Joint
from spectron.objectives.text_lm import TextLM as TextLM
