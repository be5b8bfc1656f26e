"""`spectron runs`: the stages of training runs, how far they are, and whether a process is alive."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any


def add_runs(commands: Any) -> None:
    """Flags of `spectron runs`."""
    runs = commands.add_parser("runs", help="list the stages of training runs: steps, figures, processes")
    runs.add_argument("folder", metavar="WORKDIR", help="a work folder of `spectron train`, or one that holds some")
    runs.set_defaults(run=_runs, computes=False)


def _runs(arguments: argparse.Namespace) -> int:
    from spectron.training.runs import StageRun, find_runs  # this module imports no JAX
    from spectron.utils.console import columns, duration

    def cells(run: StageRun) -> tuple[str, ...]:
        return (
            run.name,
            f"{run.step} / {run.steps or '?'}",
            str(run.saved or "–"),
            f"{duration(time.time() - run.active)} ago" if run.active else "–",
            run.state,
            "  ".join(f"{name} {value:.4g}" for name, value in run.figures.items()) or "–",
        )

    header = ("stage", "step", "saved", "last activity", "process", "newest figures")
    for workdir, stages in find_runs(Path(arguments.folder)).items():
        print(f"{workdir}\n{columns([header, *map(cells, stages)], indent='  ')}")
    return 0
