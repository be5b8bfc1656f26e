"""What training shows a person: one progress line, and a short table at the end of a stage.

On a terminal the line is a bar that is drawn again and again; in a log it is a plain line every `log_every` steps.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from spectron.training.runs import VALIDATION
from spectron.utils.console import columns, duration, speed

COLUMNS = 100  # ours: a progress line is not longer
MAIN_METRICS = 4  # ours: how many a line shows at most
RECENT_STEPS = 200  # ours: speed and time left are those of so many last steps
BAR = "{desc} {percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt}{postfix}"


class Stopwatch:
    """The time that steps take, without pauses: compilation and validation count neither as speed nor as time left."""

    def __init__(self) -> None:
        self._paused = 0.0
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)  # of the last steps, in seconds without pauses

    def step(self) -> None:
        """A step has ended. The first one, which compiles, only starts the clock."""
        self._ends.append(time.monotonic() - self._paused)

    def pause(self, seconds: float) -> None:
        """Leave out some seconds that are over now."""
        if self._ends:
            self._paused += seconds

    @property
    def seconds_per_step(self) -> float:
        """The mean of the last steps; 0 before the second."""
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) if len(self._ends) > 1 else 0.0


class Console:
    """Prints the progress of one stage. main: names of the metrics to show, the most important first.

    Steps are counted from 1; `first` is the step that the run continues from. silent: print nothing, on all hosts but
    one.
    """

    def __init__(self, stage: str, first: int, last: int, main: Sequence[str], silent: bool = False) -> None:
        self.stage = stage
        self.first = first
        self.last = last
        self.main = main
        self.silent = silent
        self.began = time.monotonic()
        self.figures: dict[str, float] = {}  # the newest main metrics
        self.watch = Stopwatch()
        self._bar = None
        if not silent and sys.stderr.isatty():
            self._bar = tqdm(
                total=last, initial=first, desc=stage, bar_format=BAR, dynamic_ncols=True, leave=False, file=sys.stderr
            )
        self._lines = self._bar is None or not sys.stdout.isatty()  # `spectron train … > log` writes both

    def step(self, step: int) -> None:
        """A step has ended."""
        self.watch.step()
        if self._bar is not None:
            width = min(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)
            head = self._bar.format_meter(step, self.last, 0, prefix=self.stage, bar_format=BAR)
            self._bar.set_postfix_str(self.status(step, width - len(head) - len(", ")), refresh=False)
            self._bar.update(1)

    def line(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the means of the last steps: as a line in a log, in the bar on a terminal."""
        names = [name for name in self.main if name in metrics] or ["loss"]
        self.figures = {name: metrics[name] for name in names if name in metrics}
        head = f"{self.stage} {step}/{self.last}  "
        if self._lines:
            self.say(head + self.status(step, COLUMNS - len(head)))

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show validation metrics, on a line of their own in a terminal too."""
        self.say(f"{self.stage} {step}/{self.last}  " + "  ".join(f"{name} {v:.4g}" for name, v in metrics.items()))

    def status(self, step: int, width: int) -> str:
        """Main metrics, speed and time left in at most `width` columns: the last metrics are left out first."""
        each = self.watch.seconds_per_step
        rates = [speed(each)] if each else []
        if each and step < self.last:
            rates.append(f"{duration(each * (self.last - step))} left")
        shown = [f"{name} {value:.3g}" for name, value in self.figures.items()]
        while shown and len("  ".join([*shown, *rates])) > width:
            shown.pop()
        return "  ".join([*shown, *rates])

    def summary(self, step: int, folder: Path, files: Sequence[str], metrics: Mapping[str, float]) -> None:
        """The table at the end of a stage, or where it was stopped. metrics: the newest, validation included."""
        each, took = self.watch.seconds_per_step, time.monotonic() - self.began
        pace = [speed(each)] if each else []
        if rate := metrics.get("examples_per_second"):
            pace.append(f"{rate:.3g} examples/s")
        names = [name for name in metrics if name in self.figures or name.startswith(VALIDATION)]
        rows = [
            ("steps", f"{step}" + (f", {step - self.first} of them now" if self.first else "")),
            ("time", duration(took)),
            *([("speed", ", ".join(pace))] if pace else []),
            *((name, f"{metrics[name]:.4g}") for name in names),
            ("files", f"{folder}: {', '.join(files)}"),
        ]
        state = "finished" if step >= self.last else f"stopped at step {step} of {self.last}"
        self.say(f"{self.stage}: {state}\n{columns(rows, indent='  ')}")

    def say(self, text: str) -> None:
        """Print something, above the bar if there is one."""
        if not self.silent:
            tqdm.write(text) if self._bar is not None else print(text, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
