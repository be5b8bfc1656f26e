"""Text for a person at a terminal: durations, speeds, aligned columns, and how far a long command is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

SECONDS_BETWEEN_LINES = 30.0  # ours: of progress, if there is no terminal


class Progress:
    """How far a long command is, on stderr: a bar if that is a terminal, a line now and then if not."""

    def __init__(self, total: int, label: str, unit: str, initial: int = 0, leave: bool = True) -> None:
        from tqdm import tqdm

        self._label, self._last_line = label, time.monotonic()
        self._bar = tqdm(
            total=total, initial=initial, desc=label or None, unit=unit, disable=None, leave=leave
        )  # None: shown on terminals only
        self._count, self._total = initial, total

    def advance(self, status: str = "") -> None:
        """One item more is done. status: said beside the count, in lines."""
        self._bar.update()
        self._count += 1
        now = time.monotonic()
        if self._bar.disable and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            head, tail = f"{self._label}: " if self._label else "", f", {status}" if status else ""
            print(f"{head}{self._count} of {self._total}{tail}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()


class Waiting:
    """Says on stderr, every half minute, how long one call has taken that cannot say how far it is."""

    def __init__(self, label: str, every: float = SECONDS_BETWEEN_LINES) -> None:
        self._label, self._every = label, every
        self._ended = threading.Event()

    def _speak(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(self._every):
            print(f"  {self._label}, {duration(time.monotonic() - began)} so far", file=sys.stderr, flush=True)

    def __enter__(self) -> Waiting:
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()


def duration(seconds: float) -> str:
    """Seconds in the two units that matter: "8 s", "4 min 05 s", "2 h 05 min", "3 d 04 h"."""
    whole = max(round(seconds), 0)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24:02d} h"
    if hours:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def speed(seconds_per_step: float) -> str:
    """Three digits of steps per second, or of seconds per step if a step takes longer than one: "6.25 steps/s"."""
    if seconds_per_step > 1:
        return f"{seconds_per_step:.3g} s/step"
    return f"{1 / max(seconds_per_step, 1e-9):.3g} steps/s"


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows of cells as lines, every column as wide as its widest cell. All rows have as many cells as the first."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)
