"""Speaker similarity: cosines of the speaker embeddings of a prompt and its continuation, whole and by second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics.intervals import known, seed_average
from spectron.evaluation.results import Figure, Table

WINDOW, HOP = 1.0, 0.25  # seconds (ours)
FEWEST = 2  # ours: items; one says nothing about a system
Course = Sequence[float]  # cosines of windows HOP apart with the prompt, NaN without a voice

SAME = (
    "Cosine of the speaker embeddings of a prompt and its continuation, mean over items; items in which the encoder "
    "finds no voice are left out."
)
OTHERS = "The same with the prompts of all other items instead of its own: the encoder's cosine of different voices."
DRIFT = (
    f"Cosine with the prompt of the continuation's last {WINDOW:g} s less that of its first, over continuations of at "
    f"least {2 * WINDOW:g} s with a voice in both; below 0 the voice drifts away."
)
COURSE = "Cosine of the speaker embeddings of the prompt and of these seconds of the continuation."


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """a · b of two unit vectors; NaN if one is zero (no voice was found)."""
    return float(np.clip(a @ b, -1, 1)) if np.any(a) and np.any(b) else math.nan


def to_others(prompts: Float[np.ndarray, "N D"], spoken: Float[np.ndarray, "N D"]) -> list[float]:
    """Mean cosine of each continuation with all prompts but its own; unit vectors, or zeros if no voice was found.

    Prompts and continuations without a voice are left out; NaN if nothing is left.
    """
    # The mean of products is the product with the mean: no table of all pairs, which grows with the square.
    prompts, spoken = prompts.astype(np.float64), spoken.astype(np.float64)
    others = np.any(prompts, axis=1).sum() - np.any(prompts, axis=1)
    sums = np.sum(spoken * (prompts.sum(axis=0) - prompts), axis=1)
    present = np.any(spoken, axis=1) & (others > 0)
    return np.divide(sums, others, out=np.full(len(spoken), math.nan), where=present).tolist()


def windows(samples: np.ndarray) -> list[np.ndarray]:
    """All whole windows of one second, a quarter of a second apart; int16 [16000] each."""
    size, hop = round(WINDOW * RATE), round(HOP * RATE)
    return [samples[i : i + size] for i in range(0, len(samples) - size + 1, hop)]


def drift(course: Course) -> float:
    """The last window's cosine minus the first window's; NaN if they would overlap or one has no voice."""
    return course[-1] - course[0] if (len(course) - 1) * HOP >= WINDOW else math.nan


def similarity_figures(
    similarities: Sequence[Sequence[float | None]], courses: Sequence[Sequence[Course]]
) -> dict[str, Figure]:
    """Columns of one system's row; both arguments are [item][seed]."""
    label = "Speaker similarity"
    figures = {label: seed_average(label, known(similarities), SAME)}
    changes = known([[drift(course) for course in row] for row in courses])
    if any(changes):
        figures["Drift"] = seed_average("Drift", changes, DRIFT)
    return figures


def course_table(courses_of: Mapping[str, Sequence[Sequence[Course]]]) -> list[Table]:
    """The table of similarity by second, over the items that last so long; [] if no system has a course.

    courses_of: row → courses[item][seed].
    """
    rows = {name: columns for name, courses in courses_of.items() if (columns := _by_second(courses))}
    note = "Later seconds are of fewer items: see n in results.json."
    return [Table("Speaker similarity over time", rows, note)] if rows else []


def _by_second(courses: Sequence[Sequence[Course]]) -> dict[str, Figure]:
    figures = {}
    longest = max((len(course) for row in courses for course in row), default=0)
    for i in range(0, longest, round(WINDOW / HOP)):
        label = f"{i * HOP:g}–{i * HOP + WINDOW:g} s"
        values = known([[course[i] for course in row if i < len(course)] for row in courses])
        figure = seed_average(label, values, COURSE)
        if figure.n >= FEWEST:
            figures[label] = figure
    return figures
