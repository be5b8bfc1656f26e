"""What a suite found: tables of figures with intervals and definitions, and who judged; as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from spectron.evaluation.scores.intervals import Figure

_INTERVAL = " 95 % interval: "  # how intervals.py begins to say which


@dataclasses.dataclass(frozen=True)
class Table:
    """Figures by row and column; a row may lack columns."""

    title: str
    rows: Mapping[str, Mapping[str, Figure]]  # row → column → figure
    note: str = ""

    @property
    def columns(self) -> list[str]:
        """Every column once, in the order of its first row."""
        return list(dict.fromkeys(column for row in self.rows.values() for column in row))


@dataclasses.dataclass(frozen=True)
class Results:
    """A suite's outcome.

    facts: checkpoint, seeds, settings: what one needs to repeat it. judges: {"role", "name", "version", "settings",
    "checksum"} each. data: {"name", "items", "checksum"} each. Holds no time and no date: the same evaluation gives the
    same bytes.
    """

    suite: str
    tables: Sequence[Table]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    judges: Sequence[Mapping[str, Any]] = ()
    data: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> str:
        """results.json; a figure of no items has null for NaN."""
        return json.dumps(plain(dataclasses.asdict(self)), indent=1, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """The same for JSON, which has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def restored(value: Any) -> Any:
    """What `plain` was given: null is NaN again."""
    if isinstance(value, dict):
        return {key: restored(each) for key, each in value.items()}
    if isinstance(value, list):
        return [restored(each) for each in value]
    return math.nan if value is None else value


def markdown(results: Results) -> str:
    """Every table with its intervals, the definitions below it, and the judges."""
    lines: list[str] = []
    said: set[str] = set()  # definitions, each once
    for table in results.tables:
        lines += [
            f"**{table.title}**",
            "",
            f"| | {' | '.join(map(_name, table.columns))} | n |",
            "|---" * (len(table.columns) + 2) + "|",
        ]
        for name, row in table.rows.items():
            cells = [_cell(row.get(column)) for column in table.columns]
            lines.append(f"| {_name(name)} | {' | '.join(cells)} | {_count(row)} |")
        lines += ["", *([table.note, ""] if table.note else [])]
        new = [line for name, text in meanings(table).items() if (line := f"- {name}: {text}") not in said]
        said |= set(new)
        lines += [*new, *([""] if new else [])]
    lines += [f"- {judge['role']}: {judge['name']}, version {judge['version']}" for judge in results.judges]
    return "\n".join(lines).rstrip() + "\n"


def meanings(table: Table) -> dict[str, str]:
    """Column → its rows' definitions; those that differ in the kind of interval alone are told once, with both.

    Columns of one definition share a line.
    """
    found: dict[str, dict[str, dict[str, None]]] = {}  # column → definition → kinds of interval, in order
    for row in table.rows.values():
        for column, figure in row.items():
            text, _, kind = figure.definition.partition(_INTERVAL)
            found.setdefault(column, {}).setdefault(text, {})[kind.removesuffix(".")] = None
    columns: dict[str, list[str]] = {}  # definition → its columns
    for column, told in found.items():
        parts = (f"{text}{_INTERVAL}{', or '.join(kinds)}." if any(kinds) else text for text, kinds in told.items())
        columns.setdefault(" ".join(parts), []).append(column)
    return {", ".join(names): text for text, names in columns.items()}


def _name(text: str) -> str:
    """As a table's cell: a bar or a line's end would end it."""
    return " ".join(text.replace("|", "\\|").split())


def _cell(figure: Figure | None) -> str:
    return "–" if figure is None else f"{figure.text()} ({figure.interval_text()})"


def _count(row: Mapping[str, Figure]) -> str:
    counts = sorted({figure.n for figure in row.values()})
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
