"""Is it the same voice? Cosines of speaker embeddings of a prompt and what came after it, whole and by second."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from spectron.evaluation.judges.outside import RATE
from spectron.evaluation.scores.intervals import Figure, average
from spectron.evaluation.scores.tables import Table

WINDOW, HOP = 1.0, 0.25  # seconds; the window is the one second, the hop ours
FEWEST = 2  # ours: items; one says nothing about a system
Course = list[tuple[float, float]]  # (seconds from the start to the window's start, cosine), NaN without a voice

SAME = (
    "Cosine of the speaker embeddings of a prompt and its continuation, mean over items; items in which the encoder "
    "finds no voice are left out."
)
OTHERS = "The same with the prompts of all other items instead of its own: where the encoder's scale begins."
DRIFT = (
    f"Cosine with the prompt of the continuation's last {WINDOW:g} s less that of its first, over continuations of at "
    f"least {2 * WINDOW:g} s with a voice in both; below 0 the voice drifts away."
)
COURSE = "Cosine of the speaker embeddings of the prompt and of these seconds of the continuation."
OVER_TIME = "Speaker similarity over time"  # the table of the course
LATER = "Later seconds are of fewer items: see n in results.json."


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """a · b of two unit vectors; NaN where one is zero: the encoder heard no voice."""
    return float(np.clip(a @ b, -1, 1)) if np.any(a) and np.any(b) else math.nan


def to_others(prompts: Float[np.ndarray, "N D"], spoken: Float[np.ndarray, "N D"]) -> list[float]:
    """Mean cosine of each continuation with all prompts but its own; unit vectors, or zeros where no voice was found.

    Those without a voice are left out; NaN where nothing is left.
    """
    # The mean of products is the product with the mean: no table of all pairs, which grows with the square.
    prompts, spoken = prompts.astype(np.float64), spoken.astype(np.float64)
    others = np.any(prompts, axis=1).sum() - np.any(prompts, axis=1)
    sums = np.sum(spoken * (prompts.sum(axis=0) - prompts), axis=1)
    present = np.any(spoken, axis=1) & (others > 0)
    return np.divide(sums, others, out=np.full(len(spoken), math.nan), where=present).tolist()


def windows(samples: np.ndarray) -> list[np.ndarray]:
    """Every whole window of one second, a quarter of a second apart; int16 [16000] each."""
    size, hop = round(WINDOW * RATE), round(HOP * RATE)
    return [samples[i : i + size] for i in range(0, len(samples) - size + 1, hop)]


def course_of(prompt: np.ndarray, parts: Sequence[np.ndarray]) -> Course:
    """The course from embeddings: the prompt's, and those of the windows in order."""
    return [(i * HOP, cosine(prompt, part)) for i, part in enumerate(parts)]


def drift(course: Course) -> float:
    """The last window's cosine less the first one's; NaN where they would overlap or one has no voice."""
    return course[-1][1] - course[0][1] if course and course[-1][0] >= WINDOW else math.nan


def seconds_of(place: int) -> str:
    """What the course's table calls the window of this number."""
    return f"{place * HOP:g}–{place * HOP + WINDOW:g} s"


def similarity_figures(same: Sequence[float], others: Sequence[float], courses: Sequence[Course]) -> dict[str, Figure]:
    """The columns of one system's row. others: each item's mean cosine with the other items' prompts; may be empty."""
    figures = {"Speaker similarity": average("Speaker similarity", known(same), SAME, "")}
    if known(others):
        figures["To other prompts"] = average("To other prompts", known(others), OTHERS, "")
    changes = known([drift(course) for course in courses])
    if changes:
        figures["Drift"] = average("Drift", changes, DRIFT, "")
    return figures


def course_table(row: str, courses: Sequence[Course]) -> Table:
    """Similarity by the second in which a window starts, over the items that last so long."""
    found = {}
    longest = max((len(course) for course in courses), default=0)
    each_second = round(WINDOW / HOP)
    for i in range(0, longest, each_second):
        label = seconds_of(i)
        values = known([course[i][1] for course in courses if i < len(course)])
        if len(values) >= FEWEST:
            found[label] = average(label, values, COURSE, "")
    return Table(OVER_TIME, {row: found}, LATER)


def known(values: Sequence[float]) -> list[float]:
    """Those that are numbers."""
    return [value for value in values if not math.isnan(value)]
