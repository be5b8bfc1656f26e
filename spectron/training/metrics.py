"""Metrics of a run: metrics.jsonl, TensorBoard if it is installed, a progress bar or plain lines."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

LATEST = "learning_rate"  # metrics of this name, or below it, are written as their last value, not as a mean
RATES = ("step_seconds", "examples_per_second", "speech_seconds_per_second", "padding", "teraflops_per_chip", "mfu")
UNITS = ("s/step", "examples/s", "s of speech/s", "padding", "model TFLOP/s per chip", "MFU")


class Work(NamedTuple):
    """The work of a step: examples, seconds of speech, real and computed positions, model FLOPs per chip (cost/)."""

    examples: int
    seconds: float
    real: int = 0
    computed: int = 0
    flops: float = 0.0


class MetricsLog:
    """Collects the metrics of every step and writes their means every `every` steps. write: False on all hosts but one.

    peak: a chip's peak FLOP/s, 0 if unknown.
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
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.stage = stage
        self.last = last
        self.every = every
        self.write = write
        self.peak = peak
        self.window: dict[str, float] = {}  # sums of the steps since the last line
        self.count = 0
        self._work = np.zeros(1 + len(Work._fields))  # number of steps since `_clock`, and the sums of their work
        self._clock: float | None = None  # time of the last line; starts after the first step, which compiles
        self._board = _tensorboard(folder, first) if write else None
        self._bar = None
        if write:
            forget_after(self.path, first)
            if sys.stderr.isatty():
                self._bar = tqdm(total=last, initial=first, desc=stage, unit="step", dynamic_ncols=True)

    def add(self, step: int, metrics: Mapping[str, float], work: Work) -> None:
        """Metrics of one finished step (counted from 1), and its work."""
        for name, value in metrics.items():
            self.window[name] = float(value) + (0.0 if _is_latest(name) else self.window.get(name, 0.0))
        self.count += 1
        if self._clock is None:
            self._clock = time.monotonic()
        else:
            self._work += (1, *work)
        if self._bar is not None:
            self._bar.update(1)
        if step == 1 or step % self.every == 0 or step == self.last:
            self._line(step)

    def pause(self, seconds: float) -> None:
        """Leave some seconds, of compilation or validation, out of the rates."""
        if self._clock is not None:
            self._clock += seconds

    def _line(self, step: int) -> None:
        means = {name: value if _is_latest(name) else value / self.count for name, value in self.window.items()}
        now = time.monotonic()
        elapsed = max(now - (self._clock or now), 1e-9)
        rates = self._rates(elapsed) if self._work[0] else {}
        self.window, self.count, self._clock, self._work = {}, 0, now, np.zeros(len(self._work))
        if not self.write:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": self.stage, **means, **rates}) + "\n")
        if self._board is not None:
            for name, value in {**means, **rates}.items():
                self._board.add_scalar(name, value, step)
        self.say(f"{self.stage} {step}/{self.last}  {_readable(means, rates)}")

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write validation metrics of a step as a line of their own."""
        if not self.write:
            return
        named = {f"validation_{name}": value for name, value in metrics.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "stage": self.stage, **named}) + "\n")
        if self._board is not None:
            for name, value in named.items():
                self._board.add_scalar(name, value, step)
        self.say(
            f"{self.stage} {step}/{self.last}  " + "  ".join(f"{name} {value:.4g}" for name, value in named.items())
        )

    def _rates(self, elapsed: float) -> dict[str, float]:
        steps, examples, speech, real, computed, flops = self._work.tolist()
        padding = 1 - real / computed if computed else 0.0
        values = [elapsed / steps, examples / elapsed, speech / elapsed, padding, flops / elapsed / 1e12]
        if self.peak:
            values.append(flops / elapsed / self.peak)
        return {name: float(f"{value:.4g}") for name, value in zip(RATES, values, strict=False)}

    def say(self, line: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self.write:
            tqdm.write(line) if self._bar is not None else print(line, flush=True)

    def state(self) -> dict[str, Any]:
        """The sums since the last line, saved in checkpoints so that the next line is the same after a restart."""
        return {"count": self.count, "sums": self.window}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.count = state["count"]
        self.window = dict(state["sums"])

    def close(self) -> None:
        """Close the progress bar and TensorBoard."""
        if self._bar is not None:
            self._bar.close()
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
    return SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)


def _is_latest(name: str) -> bool:
    return name.split("/", maxsplit=1)[0] == LATEST


def _readable(means: Mapping[str, float], rates: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.4g}" for name, value in means.items()]
    units = zip(rates.values(), UNITS, strict=False)
    return "  ".join([*shown, *(f"{value:.3g} {unit}" for value, unit in units)])
