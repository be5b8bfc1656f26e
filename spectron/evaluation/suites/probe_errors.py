"""Does a wrong transcript make a wrong continuation? Errors of both, answer by answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron.evaluation.scores.alignment import distance
from spectron.evaluation.scores.intervals import Figure, average, correlation
from spectron.evaluation.suites.measures import Measured, Row

Pairs = list[list[tuple[float, float]]]  # [item][decoding seed]: errors a word of transcript and of continuation

_HEARD = "word errors a word of the transcript's part that is the prompt's"
CLOSED = f"Of {_HEARD} and of the speech against what truly follows."
BY_LM = f"Of {_HEARD} and −ln p a word of the speech's transcript under the language model."
BY_TEXT = f"Of {_HEARD} and of the speech against the model's own text."


def error_pairs(row: Row, truths: Sequence[list[str] | None], closed: bool, likely: bool) -> tuple[Pairs, str]:
    """(pairs, what they are): in a closed world errors against the truth, else, where it was asked about any row
    (likely), what the language model makes of it."""
    told = CLOSED if closed else BY_LM if likely else BY_TEXT
    pairs: Pairs = []
    for each, truth in zip(row, truths, strict=True):
        pairs.append([])
        for m in each:
            wrong = _wrong(m, truth if closed else None, likely)
            if wrong is not None and m.prompt_errors is not None and m.prompt_words:
                pairs[-1].append((m.prompt_errors / m.prompt_words, wrong))
    return pairs, told


def _wrong(m: Measured, truth: list[str] | None, likely: bool) -> float | None:
    if m.heard is None:
        return None
    if truth is not None:
        return distance(truth, m.heard) / max(len(truth), 1)
    if likely:
        return None if m.opinion.nats is None else m.opinion.nats / max(len(m.heard), 1)
    return None if m.faults is None else m.faults / max(len(m.own or ()), 1)


def error_rows(
    free: Mapping[str, tuple[Row, Sequence[list[str] | None]]], closed: bool
) -> dict[str, dict[str, Figure]]:
    """Rows of the table: each free row alone, then all of them together, in one unit. free: name → (row, truths)."""
    likely = any(m.opinion.nats is not None for row, _ in free.values() for each in row for m in each)
    found = {name: error_pairs(*each, closed, likely) for name, each in free.items()}
    rows = {name: error_figures(*each) for name, each in found.items()}
    if len(found) > 1:
        told = next(iter(found.values()))[1]
        rows["all of these"] = error_figures(
            [[pair for row in each for pair in row] for each in zip(*(p for p, _ in found.values()), strict=True)], told
        )
    return {name: row for name, row in rows.items() if row}


def error_figures(pairs: Pairs, told: str) -> dict[str, Figure]:
    """Column → figure; without a wrong transcript, or a right one, there is nothing to compare."""
    found = {}
    linked = correlation("correlation", pairs, told)
    if linked.value == linked.value:  # not nan
        found["correlation"] = linked
    for label, wanted in (("errors, transcript right", False), ("errors, transcript wrong", True)):
        mine = [[y for x, y in each if (x > 0) == wanted] for each in pairs]
        values = [sum(ys) for ys in mine if ys]
        if values:
            unit = "nats a word" if told == BY_LM else "%"
            which = "with" if wanted else "without"
            definition = (
                f"The continuation's errors a word in answers {which} an error in the transcript's prompt part."
            )
            found[label] = average(label, values, definition, unit, [len(ys) for ys in mine if ys])
    return found
