"""`spectron score`: the suites' metrics on audio and texts that exist already, whatever system made them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from spectron.data.folders import write_text
from spectron.evaluation.journal import Journal
from spectron.evaluation.judges.outside import Facts
from spectron.evaluation.scores.intervals import Figure
from spectron.evaluation.scores.tables import Results, Table, markdown, plain, restored
from spectron.evaluation.scoring import score_page
from spectron.evaluation.scoring.items import Item, Items
from spectron.types import UserError

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
    journal = Journal(out / "journal", {**plan, "chunk": CHUNK})

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


Rows = Mapping[str, Mapping[str, Figure]]


def joined(paths: Sequence[str | Path]) -> Results:
    """Several results.json with the same tables as one: a row for each system. Rows of one name are told apart by
    their folders. Raises UserError where judges differ."""
    found: list[Results] = []
    for path in map(Path, paths):
        path = path / "results.json" if path.is_dir() else path
        try:
            stored = restored(json.loads(path.read_text(encoding="utf-8")))
            tables = [_table(table) for table in stored.pop("tables")]
            found.append(Results(tables=tables, **stored))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{str(path)!r} holds no results ({error}); give what `spectron score` wrote.") from error
    merged: dict[str, Table] = {}
    for name, results in zip(paths, found, strict=True):
        for table in results.tables:
            known = merged.get(table.title, Table(table.title, {}, table.note))
            rows = _apart(table.rows, known.rows, Path(name))
            note = " ".join(_once([text for text in (known.note, table.note) if text]))
            merged[table.title] = Table(table.title, {**known.rows, **rows}, note)
    judges = _once([dict(judge) for results in found for judge in results.judges])
    for role in {judge["role"] for judge in judges}:
        which = _once([{**judge, "name": ""} for judge in judges if judge["role"] == role])
        if len(which) > 1 and len(merged) < sum(len(results.tables) for results in found):
            raise UserError(f"Not all of these were judged by the same {role}; score them again with one.")
    data = _once([dict(each) for results in found for each in results.data])
    suites = " + ".join(_once([results.suite for results in found]))
    return Results(suites, list(merged.values()), {"joined": len(found)}, judges, data)


def _apart(rows: Rows, known: Rows, path: Path) -> Rows:
    """The rows, named after their folder too where another file has one of that name, which is not the same."""
    place = path.name if path.suffix != ".json" else path.absolute().parent.name
    named = {
        row if row not in known or _same(known[row], cells) else f"{row}, {place}": cells for row, cells in rows.items()
    }
    if doubled := [row for row in named if row in known and not _same(known[row], named[row])]:
        raise UserError(f"{str(path)!r} has the row {doubled[0]!r} of another file; rename its folder.")
    return named


def _same(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> bool:
    return repr(first) == repr(second)  # NaN is not equal to itself


def _table(stored: Mapping[str, Any]) -> Table:
    rows = {row: {name: Figure(**each) for name, each in cells.items()} for row, cells in stored["rows"].items()}
    return Table(stored["title"], rows, stored.get("note", ""))


def _once(values: list[Any]) -> list[Any]:
    """Each value once, in order; they need not be hashable."""
    return [value for i, value in enumerate(values) if value not in values[:i]]
