"""`spectron score`: the suites' metrics on audio and texts that exist already, whatever system made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import spectron
from spectron.evaluation.judges.outside import Facts
from spectron.evaluation.scores.tables import Results, Table, markdown, plain, restored
from spectron.evaluation.scoring import score_page
from spectron.evaluation.scoring.items import Item, Items
from spectron.utils.chunk_cache import Journal
from spectron.utils.files import write_text

CHUNK = 16  # ours: items measured together, and lost at the most when killed
Record = dict[str, Any]  # what was measured of one item, as JSON


class Metric(Protocol):
    """One thing to measure, with its judges."""

    @property
    def name(self) -> str:
        """As the command calls it."""
        ...

    @property
    def roles(self) -> Sequence[str]:
        """What it reads of an item."""
        ...

    @property
    def judges(self) -> Sequence[Facts]:
        """Who decides."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else changes the outcome."""
        ...

    def measure(self, items: Sequence[Item]) -> list[Record]:
        """What each item gives, by itself."""
        ...

    def conclude(self, row: str, records: Sequence[Record]) -> tuple[list[Record], list[Table]]:
        """What items.jsonl says of each, and the tables with one row of this name."""
        ...


def score(metric: Metric, items: Items, out: str | Path, row: str) -> Results:
    """Measure all items; results.json, results.md, items.jsonl and report.html in OUT. Goes on where it was killed.

    row: the system's name in the tables. Raises UserError for what cannot be read, or where OUT is of other work.
    """
    out, data = Path(out), items.facts()
    facts = {"metric": metric.name, **metric.settings}
    plan = {"metric": metric.name, "settings": dict(metric.settings), "judges": list(metric.judges), "data": data}
    # The version: what is kept are verdicts, which another scorer may give otherwise.
    journal = Journal(out / "journal", {**plan, "chunk": CHUNK, "spectron": spectron.__version__})

    def work(numbers: range) -> bytes:
        records = metric.measure([items.items[i] for i in numbers])
        return "".join(json.dumps(plain(record), ensure_ascii=False) + "\n" for record in records).encode()

    chunks = journal(len(items.items), CHUNK, work, metric.name)
    records = [restored(json.loads(line)) for chunk in chunks for line in chunk.decode().split("\n") if line]
    told, tables = metric.conclude(row, records)
    results = Results(f"score {metric.name}", tables, facts, metric.judges, [data])
    lines = [
        {"id": item.id, **{role: str(path) for role, path in item.sounds.items()}, **plain(each)}
        for item, each in zip(items.items, told, strict=True)
    ]
    write_text(out / "items.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    score_page.write(out / "report.html", results, items.items, told)
    write_text(out / "results.md", markdown(results))
    write_text(out / "results.json", results.to_json())
    return results
