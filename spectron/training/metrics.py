"""Metrics of a run: all of them in metrics.jsonl and TensorBoard, if it is installed; the main ones on the console."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectron.checkpoints.steps import FOLDER
from spectron.parallel import multihost
from spectron.training.console import Console
from spectron.training.runs import METRICS, VALIDATION

BOARD = "tensorboard"  # the folder of its files, in the stage's
LATEST = "learning_rate"  # metrics of this name, or below it, are written as their last value, not as a mean
LOCAL = slice(2, 5)  # seconds, real and computed in MetricsLog._work: what each process knows of its own rows
RATES = ("step_seconds", "examples_per_second", "speech_seconds_per_second", "padding", "teraflops_per_chip", "mfu")


class Work(NamedTuple):
    """The work of a step: examples, seconds of speech, real and computed positions, model FLOPs per chip (cost/).

    Seconds and positions are those of this process's rows: their sums over all processes are taken once a line.
    """

    examples: int
    seconds: float
    real: int = 0
    computed: int = 0
    flops: float = 0.0


class MetricsLog:
    """Collects the metrics of every step and writes their means every `every` steps. write: False on all hosts but one.

    peak: a chip's peak FLOP/s, 0 if unknown. main: the metrics that the console shows (console.py). beat: called
    with every step that has ended.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        first: int,
        last: int,
        every: int,
        write: bool = True,
        peak: float = 0.0,
        main: Sequence[str] = ("loss",),
        beat: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.folder = folder
        self.path = folder / METRICS
        self.stage = stage
        self.last = last
        self.every = every
        self.write = write
        self.peak = peak
        self._beat = beat
        self.window: dict[str, float] = {}  # sums of the steps since the last line
        self.count = 0
        self._work = np.zeros(1 + len(Work._fields))  # number of steps since `_clock`, and the sums of their work
        self._clock: float | None = None  # time of the last line; starts after the first step, which compiles
        self._newest: dict[str, float] = {}  # every metric's newest value in a line
        self._board = _tensorboard(folder, first) if write else None
        self.console = Console(stage, first, last, main, silent=not write)
        if write:
            forget_after(self.path, first)

    def add(self, step: int, metrics: Mapping[str, float], work: Work) -> None:
        """Metrics of one finished step (counted from 1), and its work."""
        for name, value in metrics.items():
            self.window[name] = float(value) + (0.0 if _is_latest(name) else self.window.get(name, 0.0))
        self.count += 1
        if self._clock is None:
            self._clock = time.monotonic()
        else:
            self._work += (1, *work)
        self.console.step(step)
        self._beat(step)
        if step == 1 or step % self.every == 0 or step == self.last:
            self._line(step)

    def pause(self, seconds: float) -> None:
        """Leave some seconds, of compilation or validation, out of the rates and of the time left."""
        self.console.watch.pause(seconds)
        if self._clock is not None:
            self._clock += seconds

    def _line(self, step: int) -> None:
        means = {name: value if _is_latest(name) else value / self.count for name, value in self.window.items()}
        now = time.monotonic()
        elapsed = max(now - (self._clock or now), 1e-9)
        rates = self._rates(elapsed) if self._work[0] else {}
        self.window, self.count, self._clock, self._work = {}, 0, now, np.zeros(len(self._work))
        if self.write:
            self._write(step, {**means, **rates})
            self.console.line(step, means)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write validation metrics of a step as a line of their own."""
        if self.write:
            named = {f"{VALIDATION}{name}": value for name, value in metrics.items()}
            self._write(step, named)
            self.console.validation(step, named)

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of metrics.jsonl, and the same for TensorBoard."""
        self._newest |= metrics
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": self.stage, **metrics}) + "\n")
        if self._board is not None:
            for name, value in metrics.items():
                self._board.add_scalar(name, value, step)

    def summary(self, step: int) -> None:
        """Print the table at the end of a stage. step: the last one that was made."""
        files = [FOLDER, METRICS, *([BOARD] if self._board is not None else [])]
        self.console.summary(step, self.folder, files, self._newest)

    def _rates(self, elapsed: float) -> dict[str, float]:
        """Rates of the last steps, of all processes: every process must call it at the same step."""
        steps, examples, *_, flops = self._work.tolist()
        each = multihost.gather(json.dumps(self._work[LOCAL].tolist()))
        speech, real, computed = np.sum([json.loads(local) for local in each], axis=0).tolist()
        padding = 1 - real / computed if computed else 0.0
        values = [elapsed / steps, examples / elapsed, speech / elapsed, padding, flops / elapsed / 1e12]
        if self.peak:
            values.append(flops / elapsed / self.peak)
        return {name: float(f"{value:.4g}") for name, value in zip(RATES, values, strict=False)}

    def state(self) -> dict[str, Any]:
        """The sums since the last line, saved in checkpoints so that the next line is the same after a restart."""
        return {"count": self.count, "sums": self.window}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.count = state["count"]
        self.window = dict(state["sums"])

    def close(self) -> None:
        """Close the progress bar and TensorBoard."""
        self.console.close()
        if self._board is not None:
            self._board.close()


def forget_after(path: Path, step: int) -> None:
    """Remove lines that a killed run wrote after the step it continues from, and an incomplete last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    partial = path.with_suffix(".tmp")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def _tensorboard(folder: Path, first: int) -> Any:
    """tensorboardX's writer, which needs no TensorFlow; None if it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / BOARD), purge_step=first + 1)


def _is_latest(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] == LATEST
