"""`spectron score`: the suites' metrics on audio and texts that exist already, made by any system."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import spectron
from spectron.config import FeatureConfig
from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics.text_scores import SCORERS
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Results, Table
from spectron.evaluation.score.items import ScoredItem, ScoredItems
from spectron.evaluation.score.metrics import Metric
from spectron.evaluation.suite import Record, Suite, run_suite
from spectron.utils.chunk_cache import ChunkCache

CHUNK = 16  # ours: items measured together, and lost at most when killed
OVERALL = "contains"  # the scorer by which an answer counts as right in the report's filter
NOT_SHOWN = ("course", "short")  # a curve; a group to filter by


def score(metric: Metric, items: ScoredItems, out: str | Path, row: str) -> Results:
    """Measure all items; results and report.html in OUT. Resumes if interrupted.

    row: the system's name in the tables. Raises UserError for what cannot be read, or if OUT holds other work.
    """
    suite = ScoreSuite(
        facts={"metric": metric.name, **metric.settings},
        judges=metric.judges,
        data=[items.facts()],
        features=FeatureConfig(sample_rate=RATE),
        metric=metric,
        items=items.items,
        row=row,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class ScoreSuite(Suite):
    """One metric, one row."""

    intro = "Recordings and texts that some system made, and what was measured of each. Below the figures: the items."

    metric: Metric
    items: Sequence[ScoredItem]
    row: str

    @property
    def name(self) -> str:
        """With the metric's."""
        return f"score {self.metric.name}"

    def measure(self, work: Path) -> list[Record]:
        """The metric's records, with the items' recordings."""
        plan: dict[str, Any] = {"facts": self.facts, "judges": self.judges, "data": self.data[0], "chunk": CHUNK}
        plan["spectron"] = spectron.__version__  # the cache holds verdicts, which a later scorer may decide otherwise
        records = ChunkCache(work / "scores", plan).records(
            len(self.items),
            CHUNK,
            lambda indices: self.metric.measure([self.items[i] for i in indices]),
            self.metric.name,
        )
        return [
            {"id": item.id, **{role: str(path) for role, path in item.sounds.items()}, **record}
            for item, record in zip(self.items, self.metric.finish(records), strict=True)
        ]

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """The metric's."""
        return self.metric.tables(self.row, records)

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """One item: its recordings, texts and values."""
        item = self.items[i]
        sounds = [(role, item.hear(role, may_be_empty=True)) for role in item.sounds] if with_media else []
        cells = {name.replace("_", " "): _cell(name, value) for name, value in _values(item, record).items()}
        groups = ["short answers"] if record.get("short") else []
        right = record["errors"] == 0 if "errors" in record else record.get(OVERALL)
        return page.Item(item.id, cells, sounds, right=right, groups=groups)


def _values(item: ScoredItem, record: Mapping[str, Any]) -> dict[str, Any]:
    """The item's texts and the record, without what is shown elsewhere."""
    repeated = "said" in record  # the transcript, or what was heard
    texts = {role: text for role, text in item.texts.items() if not (repeated and role == "transcript")}
    hidden = {"id", *item.sounds, *NOT_SHOWN}
    return {**texts, **{name: value for name, value in record.items() if name not in hidden}}


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
