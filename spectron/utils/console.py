"""Text for a person at a terminal: durations, speeds and aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


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
