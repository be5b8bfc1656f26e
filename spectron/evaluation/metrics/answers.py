"""The table of right answers by three scorers, with short answers apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectron.evaluation.metrics.intervals import proportion
from spectron.evaluation.metrics.text_scores import DEFINITIONS, SHORT_NOTE
from spectron.evaluation.results import Figure, Table

Verdicts = Mapping[str, Sequence[bool]]  # scorer → right or wrong for each decoding seed
SHORT, LONG = "short answers", "other answers"  # rows of answers of at most two characters, and of the others


def answer_table(systems: Mapping[str, tuple[Sequence[Verdicts], Sequence[bool]]], note: str = "") -> Table:
    """systems: row → (verdicts of each question, whether its answer is short). Columns are the scorers.

    Where some answers are short and some are not, both kinds have rows of their own too.
    """
    rows: dict[str, dict[str, Figure]] = {}
    for name, (verdicts, short) in systems.items():
        rows[name] = _scores(verdicts)
        if any(short) and not all(short):
            for kind, wanted in ((LONG, False), (SHORT, True)):
                chosen = [each for each, is_short in zip(verdicts, short, strict=True) if is_short == wanted]
                rows[f"{name}, {kind}"] = _scores(chosen)
    return Table("Answers", rows, "\n".join(filter(None, (SHORT_NOTE, note))))


def _scores(verdicts: Sequence[Verdicts]) -> dict[str, Figure]:
    return {name: proportion(name, [each[name] for each in verdicts], text) for name, text in DEFINITIONS.items()}
