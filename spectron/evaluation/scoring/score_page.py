"""report.html of `spectron score`: what each item was given, to look at and to hear."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.config import FeatureConfig
from spectron.evaluation.judges.outside import RATE
from spectron.evaluation.picking import spread
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.scores.tables import Results
from spectron.evaluation.scores.text_scores import SCORERS
from spectron.evaluation.scoring.items import Item

ROWS, PLAYERS = 240, 32  # ours: items on the page, and those of them with sounds, which make it heavy
OVERALL = "contains"  # the scorer by which an answer counts as right in the page's filter
NOT_SHOWN = ("course", "short")  # a curve; a group to filter by


def write(path: Path, results: Results, items: Sequence[Item], told: Sequence[Mapping[str, Any]]) -> None:
    """Write the page. told: of each item what items.jsonl says. Raises UserError where it cannot be written."""
    chosen = spread(range(len(items)), ROWS)
    heard = set(spread(chosen, PLAYERS))
    shown = []
    for i in chosen:
        item, record = items[i], told[i]
        sounds = [(role, item.hear(role, may_be_empty=True)) for role in item.sounds] if i in heard else []
        cells = {name.replace("_", " "): _cell(name, value) for name, value in _values(item, record).items()}
        groups = ["short answers"] if record.get("short") else []
        shown.append(page.Item(item.id, cells, sounds, right=_right(record), groups=groups))
    intro = ["Recordings and texts that some system made, and what each was given. Below the figures: the items."]
    if len(chosen) < len(items):
        intro.append(f"{len(chosen)} of {len(items)} items are shown, evenly spread; all are in items.jsonl.")
    page.write(path, results, shown, intro, FeatureConfig(sample_rate=RATE), "Item")


def _values(item: Item, record: Mapping[str, Any]) -> dict[str, Any]:
    """The item's texts, but for those that the record repeats, and the record."""
    repeated = "said" in record  # the transcript, or what was heard
    texts = {role: text for role, text in item.texts.items() if not (repeated and role == "transcript")}
    return {**texts, **{name: value for name, value in record.items() if name not in NOT_SHOWN}}


def _right(record: Mapping[str, Any]) -> bool | None:
    if "errors" in record:
        return bool(record["errors"] == 0)
    return record.get(OVERALL)


def _cell(name: str, value: Any) -> Cell:
    if name in SCORERS:
        return Cell("yes" if value else "no", bool(value), brief=True)
    if name == "errors":
        return Cell(str(value), value == 0, value=value, brief=True)
    if isinstance(value, int | float):
        if math.isnan(value):
            return Cell("–", value="", brief=True)
        return Cell(f"{value:.3g}" if isinstance(value, float) else str(value), value=value, brief=True)
    return Cell(", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value)
