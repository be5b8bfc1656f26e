"""`spectron score table`: results of several systems in one table, and which of them may stand beside each other."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.evaluation.scores.intervals import Figure
from spectron.evaluation.scores.tables import Results, Table, restored
from spectron.types import UserError

Rows = Mapping[str, Mapping[str, Figure]]
EAR, OF_TEXT = "speech recogniser", ("Words", "Log-perplexity", "Answers")  # who heard, and the tables where it counts
SETTINGS = {"case": "lower"}  # what changes a figure, and what the suites do, which do not tell it


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file's table: its rows, named as in the joined table, and what the file says."""

    table: Table
    results: Results

    def ear(self) -> bool:
        return any(judge["role"] == EAR for judge in self.results.judges)


def joined(paths: Sequence[str | Path]) -> Results:
    """Several results.json with the same tables as one: a row for each system.

    Rows of one name are one row where their columns differ or agree; otherwise they are told apart by their folders.
    Tables say which rows nobody heard where others were heard. Raises UserError where figures of one column have other
    judges or settings.
    """
    found = [_read(Path(path)) for path in paths]
    parts: dict[str, list[_Part]] = {}
    merged: dict[str, Table] = {}
    for name, results in zip(paths, found, strict=True):
        for table in results.tables:
            known = merged.get(table.title, Table(table.title, {}))
            rows = _apart(table.rows, known.rows, Path(name))
            together = {row: {**known.rows.get(row, {}), **cells} for row, cells in rows.items()}
            merged[table.title] = Table(table.title, {**known.rows, **together})
            parts.setdefault(table.title, []).append(_Part(Table(table.title, rows, table.note), results))
    for each in parts.values():
        _check(each)
    tables = [dataclasses.replace(table, note=_note(parts[title])) for title, table in merged.items()]
    judges = _once([dict(judge) for results in found for judge in results.judges])
    data = _once([dict(each) for results in found for each in results.data])
    suites = " + ".join(_once([results.suite for results in found]))
    return Results(suites, tables, {"joined": [dict(results.facts) for results in found]}, judges, data)


def _read(path: Path) -> Results:
    path = path / "results.json" if path.is_dir() else path
    try:
        stored = restored(json.loads(path.read_text(encoding="utf-8")))
        return Results(tables=[_table(table) for table in stored.pop("tables")], **stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} holds no results ({error}); give what `spectron score` wrote.") from error


def _table(stored: Mapping[str, Any]) -> Table:
    rows = {row: {name: Figure(**each) for name, each in cells.items()} for row, cells in stored["rows"].items()}
    return Table(stored["title"], rows, stored.get("note", ""))


def _apart(rows: Rows, known: Rows, path: Path) -> Rows:
    """The rows, named after their folder too where another file has other figures for one of that name."""
    place = path.name if path.suffix != ".json" else path.absolute().parent.name
    named = {row if _agree(known.get(row, {}), cells) else f"{row}, {place}": cells for row, cells in rows.items()}
    if doubled := [row for row, cells in named.items() if not _agree(known.get(row, {}), cells)]:
        raise UserError(f"{str(path)!r} has the row {doubled[0]!r} of another file; rename its folder.")
    return named


def _agree(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> bool:
    """Whether the columns that both have are the same."""
    return all(repr(first[name]) == repr(second[name]) for name in first.keys() & second.keys())  # NaN is not itself


def _sharing(parts: Sequence[_Part]) -> Iterator[tuple[_Part, _Part]]:
    """Every two parts of a table that have figures in one column."""
    for first, second in itertools.combinations(parts, 2):
        if set(first.table.columns) & set(second.table.columns):
            yield first, second


def _check(parts: Sequence[_Part]) -> None:
    """Raise UserError where one column has figures of different judges or settings."""
    for first, second in _sharing(parts):
        judges, others = _by_role(first.results), _by_role(second.results)
        for role in judges.keys() & others.keys():
            if judges[role] != others[role]:
                raise UserError(f"Not all of these were judged by the same {role}; score them again with one.")
        for key, usual in SETTINGS.items():
            one, other = (part.results.facts.get(key, usual) for part in (first, second))
            if one != other:
                raise UserError(
                    f"Not all of these have the same {key} ({one!r}, {other!r}); score them again with one."
                )


def _by_role(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Role → its judges; the name, which may be a place, counts only where no checksum says what stood there."""
    found: dict[str, list[dict[str, Any]]] = {}
    for judge in results.judges:
        found.setdefault(judge["role"], []).append(
            {**judge, "name": "" if judge.get("checksum") else judge.get("name")}
        )
    return found


def _note(parts: Sequence[_Part]) -> str:
    """The parts' notes, and in a table of texts the rows of given ones where others were heard."""
    notes = _once([part.table.note for part in parts if part.table.note])
    mixed = [pair for pair in _sharing(parts) if pair[0].ear() != pair[1].ear()]
    if mixed and parts[0].table.title in OF_TEXT:
        given = _once([row for pair in mixed for part in pair if not part.ear() for row in part.table.rows])
        notes.append(f"Texts as given, not heard by a {EAR} as other rows may be: {'; '.join(given)}.")
    return " ".join(notes)


def _once(values: list[Any]) -> list[Any]:
    """Each value once, in order; they need not be hashable."""
    return [value for i, value in enumerate(values) if value not in values[:i]]
