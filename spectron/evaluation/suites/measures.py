"""Figures of continuations: what one answer measures, and what many come to, with their definitions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.evaluation.judges.outside import RATE
from spectron.evaluation.scores.alignment import distance, fit_text
from spectron.evaluation.scores.intervals import Figure, average, proportion
from spectron.evaluation.scores.perplexity import DEFINITIONS as LIKELY
from spectron.evaluation.scores.similarity import (
    COURSE,
    DRIFT,
    FEWEST,
    HOP,
    LATER,
    OVER_TIME,
    SAME,
    WINDOW,
    drift,
    seconds_of,
)
from spectron.evaluation.scores.tables import Table
from spectron.evaluation.scores.text_scores import plain_words
from spectron.evaluation.suites.answers import Said
from spectron.evaluation.suites.panel import Opinion
from spectron.evaluation.suites.utterances import Item

# Quantities that `spectron score` measures too, in its tables and columns, so that rows of both stand in one.
SHARED = {
    "WER": "Words",
    **{f"log-ppl {name}": "Log-perplexity" for name in LIKELY},
    "Speaker similarity": "Speaker similarity",
    "Drift": "Speaker similarity",
}
Row = Sequence[Sequence["Measured"]]  # [item][decoding seed]
Value = Callable[["Measured"], Any]  # a number, or None where there is none


@dataclasses.dataclass(frozen=True)
class Measured:
    """One continuation, measured.

    prompt_errors, prompt_words: of the transcript's part that is the prompt's; None and 0 where that is not known. own:
    the words behind it, which the voice should say; None where not known. stopped: None where nobody had to stop.
    """

    transcript: str
    prompt_errors: int | None
    prompt_words: int
    own: tuple[str, ...] | None
    opinion: Opinion
    stopped: bool | None
    seconds: float

    @property
    def heard(self) -> list[str] | None:
        """The words the recogniser heard, without accents and punctuation."""
        return None if self.opinion.heard is None else plain_words(self.opinion.heard)

    @property
    def faults(self) -> int | None:
        """Word errors of what was heard against its own text; None where one of them is not known."""
        return None if self.own is None or self.heard is None else distance(self.own, self.heard)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def _one(_: Measured) -> int:
    return 1


def _read(m: Measured) -> int:
    """The words the language model read, punctuation and all."""
    return len((m.opinion.heard or "").split())


def measure(item: Item, prompt_words: int | None, said: Said, opinion: Opinion) -> Measured:
    """One answer beside its item. prompt_words: how many of the item's words the prompt holds."""
    errors, count, own = None, 0, None
    if prompt_words is not None:
        errors, count, end = fit_text(" ".join(item.words[:prompt_words]), said.transcript)
        own = tuple(plain_words(" ".join(said.transcript.split()[end:])))
    return Measured(said.transcript, errors, count, own, opinion, said.stopped, len(said.samples) / RATE)


def true_measure(item: Item, prompt_words: int | None, samples: Int[np.ndarray, " S"], opinion: Opinion) -> Measured:
    """What truly follows, measured as if it were an answer."""
    own = None if prompt_words is None else tuple(item.plain(prompt_words))
    return Measured(item.text, None, prompt_words or 0, own, opinion, None, len(samples) / RATE)


def figures(row: Row, quality: Mapping[str, str] | None = None) -> dict[str, Figure]:
    """Column → figure; a column is there where something was measured. quality: what a judge's measures are."""
    found: dict[str, Figure] = {}

    def put(label: str, definition: str, unit: str, value: Value, weight: Value = _one) -> None:
        figure = ratio(row, label, definition, unit, value, weight)
        if not math.isnan(figure.value):
            found[label] = figure

    put("transcript WER", TRANSCRIPT, "%", lambda m: m.prompt_errors, lambda m: m.prompt_words)
    put("WER", FAITHFUL, "%", lambda m: m.faults, lambda m: len(m.own or ()))
    put("log-ppl per token", LIKELY["per token"], "nats", lambda m: m.opinion.nats, lambda m: m.opinion.tokens)
    put("log-ppl per word", LIKELY["per word"], "nats", lambda m: m.opinion.nats, _read)
    put("log-ppl summed", LIKELY["summed"], "nats", lambda m: m.opinion.nats)
    judged = [[not m.heard for m in each if m.heard is not None] for each in row]
    if any(map(len, judged)):
        found["nothing heard"] = proportion("nothing heard", judged, "The recogniser heard no word at all.")
    put("Speaker similarity", SAME, "", lambda m: m.opinion.similarity)
    put("Drift", DRIFT, "", _drift)
    rated = {name for each in row for m in each for name in m.opinion.mos}
    for name in dict.fromkeys([*(quality or ()), *sorted(rated)]):  # in the judge's own order
        put(name, (quality or {}).get(name, f"Mean of {name}."), "", lambda m, of=name: m.opinion.mos.get(of))  # type: ignore[misc]
    stops = [[m.stopped for m in each if m.stopped is not None] for each in row]
    if any(map(len, stops)):
        found["stops by itself"] = proportion("stops by itself", stops, STOPS)
    put("seconds", "Length of the continuation.", "s", lambda m: m.seconds)
    return found


TRANSCRIPT = (
    "Word errors of the transcript against the prompt's words, over these words, without accents and punctuation; the "
    "transcript is taken up to where they fit it best, what stands behind is the continuation."
)
FAITHFUL = (
    "Word errors of what the recogniser hears in the continuation against the words that the model's own text has "
    "behind the prompt's (true text and recording in the row of the truth: the recogniser's own errors), over these, "
    "without accents and punctuation."
)
STOPS = "The stop head ended the answer before the maximum length."


def titled(title: str, rows: Mapping[str, Mapping[str, Figure]], note: str, quality: Mapping[str, str]) -> list[Table]:
    """A suite's own columns in a table of this title, and those that `spectron score` has in tables of its titles."""
    where = SHARED | dict.fromkeys(quality, "Sound")
    tables = []
    for name in (title, *dict.fromkeys(where.values())):
        mine = {row: {c: f for c, f in each.items() if where.get(c, title) == name} for row, each in rows.items()}
        if any(mine.values()):
            tables.append(Table(name, {row: each for row, each in mine.items() if each}, note if name == title else ""))
    return tables


def over_time(rows: Mapping[str, Row]) -> list[Table]:
    """The table of similarity by second, over the items that last so long; none where nobody judged voices."""
    found = {name: figures for name, row in rows.items() if (figures := course_figures(row))}
    return [Table(OVER_TIME, found, LATER)] if found else []


def course_figures(row: Row) -> dict[str, Figure]:
    """Similarity by the second in which a window starts; {} where nobody judged voices."""
    found: dict[str, Figure] = {}
    longest = max((len(m.opinion.course) for each in row for m in each), default=0)
    for at in range(0, longest, round(WINDOW / HOP)):
        label = seconds_of(at)
        figure = ratio(row, label, COURSE, "", lambda m, at=at: _near(m, at))  # type: ignore[misc]
        if figure.n >= FEWEST:
            found[label] = figure
    return found


def _near(m: Measured, at: int) -> float | None:
    course = m.opinion.course
    return None if at >= len(course) or math.isnan(course[at]) else course[at]


def _drift(m: Measured) -> float | None:
    change = drift([(i * HOP, cosine) for i, cosine in enumerate(m.opinion.course)])
    return None if math.isnan(change) else change


def ratio(row: Row, label: str, definition: str, unit: str, value: Value, weight: Value = _one) -> Figure:
    """Σ values / Σ weights over items and decoding seeds, without what has no value; whole items are drawn anew."""
    values, weights = [], []
    for each in row:
        known = [(found, weight(m)) for m in each if (found := value(m)) is not None]
        if known:  # of an item the mean over its seeds: one that lacks a seed counts as one all the same
            values.append(float(np.mean([v for v, _ in known])))
            weights.append(float(np.mean([w for _, w in known])))
    return average(label, values, definition, unit, weights)
