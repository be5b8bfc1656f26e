"""How every suite runs: measure its items through a cache, then write the tables, items.jsonl and the report."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from spectron.config import FeatureConfig
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Results, Table, markdown, without_nan
from spectron.utils.files import check_out, write_text
from spectron.utils.spacing import evenly_spaced

WORK = "work"  # below OUT: finished chunks of long work, for resuming
Record = dict[str, Any]  # what was measured of one item: its line in items.jsonl


@dataclasses.dataclass(kw_only=True)
class Suite(abc.ABC):
    """One evaluation: what it measures of every item, and how that becomes tables and rows of the report.

    facts, judges, data: as in Results; `measure` may add facts. features: of the report's sounds and spectrograms.
    """

    facts: dict[str, Any]
    judges: Sequence[Mapping[str, Any]]
    data: Sequence[Mapping[str, Any]]
    features: FeatureConfig

    item_name: ClassVar[str] = "Item"  # heading of the items' column in the report
    intro: ClassVar[str] = ""  # paragraphs, one per line
    title: ClassVar[str] = ""  # of the report; "": the name
    main_figures: ClassVar[tuple[str, ...]] = ()  # columns of the first table, at the top of the report; (): its first
    max_rows: ClassVar[int] = 240  # ours: of the report; more are slow to sort
    max_players: ClassVar[int] = 32  # ours: rows with sounds and pictures, which take most of the file

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The suite's name in the command and in the results."""

    @abc.abstractmethod
    def measure(self, work: Path) -> Sequence[Record]:
        """What was measured of each item. Long steps go through a utils.chunk_cache.ChunkCache below `work`."""

    @abc.abstractmethod
    def tables(self, records: Sequence[Record]) -> list[Table]:
        """The figures."""

    @abc.abstractmethod
    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """Item i as a row of the report. with_media: with sounds and pictures."""

    def shown(self, records: Sequence[Record]) -> list[int]:
        """The items that the report shows, by their index."""
        return evenly_spaced(range(len(records)), self.max_rows)


def check_output(out: str | Path) -> None:
    """Raise UserError if OUT cannot be written. Writes nothing."""
    check_out(out)


def run_suite(suite: Suite, out: str | Path) -> Results:
    """Measure a suite; writes OUT/items.jsonl, report.html, results.md and, last, results.json.

    Resumes with the missing chunk if interrupted. Raises UserError if OUT holds other work.
    """
    out = Path(out)
    check_output(out)
    records = suite.measure(out / WORK)
    results = Results(suite.name, suite.tables(records), suite.facts, suite.judges, suite.data)
    lines = (json.dumps(without_nan(record), ensure_ascii=False) + "\n" for record in records)
    write_text(out / "items.jsonl", "".join(lines))
    shown = suite.shown(records)
    with_media = set(evenly_spaced(shown, suite.max_players))
    items = [suite.page_item(i, records[i], i in with_media) for i in shown]
    fewer = f"{len(shown)} of {len(records)} items are shown; all are in items.jsonl."
    intro = [*suite.intro.splitlines(), *([fewer] if len(shown) < len(records) else [])]
    page.write(
        out / "report.html",
        results,
        items,
        intro,
        suite.features,
        suite.item_name,
        title=suite.title,
        main=suite.main_figures,
    )
    write_text(out / "results.md", markdown(results))
    write_text(out / "results.json", results.to_json())
    return results


def number_cell(value: float, right: bool | None = None, decimals: int = 2, small: str = "") -> Cell:
    """A narrow cell that is sorted by its number."""
    return Cell(f"{value:.{decimals}f}", right, small=small, value=value, brief=True)


def stop_cell(stopped: bool | None) -> Cell:
    """What ended an answer."""
    return Cell("stop head" if stopped else "maximum length", stopped, brief=True)


def reasons(left_out: Mapping[str, int]) -> str:
    """Why items were left out, in words."""
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())
