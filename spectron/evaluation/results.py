"""The results schema of every suite: tables of figures with intervals and definitions, judges, data and settings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.types import UserError

INTERVAL = " 95 % interval: "  # separates a definition from the kind of its interval


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured quantity. unit: "%" (value, low and high are fractions) or what the number counts; n: items."""

    label: str
    value: float
    n: int
    low: float
    high: float
    definition: str
    unit: str = "%"

    def text(self) -> str:
        """The value as people read it: "97.2 %", "1.34 nats"."""
        return f"{_number(self.value, self.unit)} {self.unit}".strip()

    def interval_text(self) -> str:
        """The interval in the same unit: "95.1 to 98.6"."""
        return f"{_number(self.low, self.unit)} to {_number(self.high, self.unit)}"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3g}"


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

    facts: checkpoint, seeds and settings needed to repeat it. judges: {"role", "name", "version", "settings",
    "checksum"} each. data: {"name", "items", "checksum"} each. Holds no time and no date: the same evaluation gives the
    same bytes.
    """

    suite: str
    tables: Sequence[Table]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    judges: Sequence[Mapping[str, Any]] = ()
    data: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> str:
        """The content of results.json; NaN becomes null."""
        return json.dumps(without_nan(dataclasses.asdict(self)), indent=1, ensure_ascii=False) + "\n"


def read_results(path: str | Path) -> Results:
    """The results of a folder or of its results.json. Raises UserError."""
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    try:
        stored = _with_nan(json.loads(path.read_text(encoding="utf-8")))
        tables = [
            Table(
                table["title"],
                {row: {name: Figure(**each) for name, each in cells.items()} for row, cells in table["rows"].items()},
                table.get("note", ""),
            )
            for table in stored.pop("tables")
        ]
        return Results(tables=tables, **stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} holds no results ({error}); give what --out of a suite named.") from error


def without_nan(value: Any) -> Any:
    """The same value for JSON, which has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _with_nan(value: Any) -> Any:
    """The inverse of without_nan."""
    if isinstance(value, dict):
        return {key: _with_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_nan(each) for each in value]
    return math.nan if value is None else value


def markdown(results: Results) -> str:
    """Every table with its intervals, the definitions below it, and the judges."""
    lines: list[str] = []
    defined: set[str] = set()  # definitions, each stated once
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
        new = [line for name, text in meanings(table).items() if (line := f"- {name}: {text}") not in defined]
        defined |= set(new)
        lines += [*new, *([""] if new else [])]
    lines += [f"- {judge['role']}: {judge['name']}, version {judge['version']}" for judge in results.judges]
    return "\n".join(lines).rstrip() + "\n"


def meanings(table: Table) -> dict[str, str]:
    """Columns → their definition. Columns with the same definition share a line.

    Definitions that differ only in the kind of interval are stated once, with both kinds.
    """
    kinds_of: dict[str, dict[str, dict[str, None]]] = {}  # column → definition → kinds of interval, in order
    for row in table.rows.values():
        for column, figure in row.items():
            text, _, kind = figure.definition.partition(INTERVAL)
            kinds_of.setdefault(column, {}).setdefault(text, {})[kind.removesuffix(".")] = None
    columns: dict[str, list[str]] = {}  # definition → its columns
    for column, definitions in kinds_of.items():
        parts = (
            f"{text}{INTERVAL}{', or '.join(kinds)}." if any(kinds) else text for text, kinds in definitions.items()
        )
        columns.setdefault(" ".join(parts), []).append(column)
    return {", ".join(names): text for text, names in columns.items()}


def _name(text: str) -> str:
    """A name as a table's cell, which a bar or a line break would end."""
    return " ".join(text.replace("|", "\\|").split())


def _cell(figure: Figure | None) -> str:
    return "–" if figure is None else f"{figure.text()} ({figure.interval_text()})"


def _count(row: Mapping[str, Figure]) -> str:
    counts = sorted({figure.n for figure in row.values()})
    return "–".join(str(n) for n in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"
