"""`spectron score table`: results of several systems in one table, and which of them can be compared."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectron.evaluation.results import Figure, Results, Table, read_results
from spectron.types import UserError
from spectron.utils.spacing import once

Rows = Mapping[str, Mapping[str, Figure]]
RECOGNISER, OF_TEXT = "speech recogniser", ("Words", "Log-perplexity", "Answers")  # tables whose figures depend on it
SETTINGS = {"case": "lower"}  # settings that change a figure, and the suites' values, which their results omit


@dataclasses.dataclass(frozen=True)
class _Part:
    """One file's table: its rows, named as in the joined table, and the file's results."""

    table: Table
    results: Results

    def heard(self) -> bool:
        return any(judge["role"] == RECOGNISER for judge in self.results.judges)


def joined(paths: Sequence[str | Path]) -> Results:
    """Join several results.json, of `spectron score` or any suite: tables with equal titles become one.

    Rows with equal names are merged if their columns are disjoint or equal; otherwise the folder's name is added. A
    table's note lists the rows whose texts were given, if a recogniser heard the texts of other rows. Raises UserError
    if one column has figures of different judges or settings.
    """
    all_results = [read_results(path) for path in paths]
    parts: dict[str, list[_Part]] = {}
    merged: dict[str, Table] = {}
    for path, results in zip(paths, all_results, strict=True):
        for table in results.tables:
            before = merged.get(table.title, Table(table.title, {}))
            rows = _apart(table.rows, before.rows, Path(path))
            together = {row: {**before.rows.get(row, {}), **cells} for row, cells in rows.items()}
            merged[table.title] = Table(table.title, {**before.rows, **together})
            parts.setdefault(table.title, []).append(_Part(Table(table.title, rows, table.note), results))
    for each in parts.values():
        _check(each)
    tables = [dataclasses.replace(table, note=_note(parts[title])) for title, table in merged.items()]
    judges = once(dict(judge) for results in all_results for judge in results.judges)
    data = once(dict(each) for results in all_results for each in results.data)
    suites = " + ".join(once(results.suite for results in all_results))
    return Results(suites, tables, {"joined": [dict(results.facts) for results in all_results]}, judges, data)


def _apart(rows: Rows, before: Rows, path: Path) -> Rows:
    """The rows, with the folder's name added if another file has other figures for a row of that name."""
    place = path.name if path.suffix != ".json" else path.absolute().parent.name
    named = {row if _agree(before.get(row, {}), cells) else f"{row}, {place}": cells for row, cells in rows.items()}
    if doubled := [row for row, cells in named.items() if not _agree(before.get(row, {}), cells)]:
        raise UserError(f"{str(path)!r} has the row {doubled[0]!r} of another file; rename its folder.")
    return named


def _agree(first: Mapping[str, Figure], second: Mapping[str, Figure]) -> bool:
    """Whether the columns that both have are the same."""
    return all(repr(first[name]) == repr(second[name]) for name in first.keys() & second.keys())  # NaN is not itself


def _sharing(parts: Sequence[_Part]) -> Iterator[tuple[_Part, _Part]]:
    """All pairs of a table's parts that have figures in one column."""
    for first, second in itertools.combinations(parts, 2):
        if set(first.table.columns) & set(second.table.columns):
            yield first, second


def _check(parts: Sequence[_Part]) -> None:
    """Raise UserError if one column has figures of different judges or settings."""
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
    """Role → its judges. A name, which may be a path, counts only if no checksum identifies the judge."""
    roles: dict[str, list[dict[str, Any]]] = {}
    for judge in results.judges:
        name = "" if judge.get("checksum") else judge.get("name")
        roles.setdefault(judge["role"], []).append({**judge, "name": name})
    return roles


def _note(parts: Sequence[_Part]) -> str:
    """The parts' notes, and for a table of texts the rows whose texts were given, if others were heard."""
    notes = once(part.table.note for part in parts if part.table.note)
    mixed = [pair for pair in _sharing(parts) if pair[0].heard() != pair[1].heard()]
    if mixed and parts[0].table.title in OF_TEXT:
        given = once(row for pair in mixed for part in pair if not part.heard() for row in part.table.rows)
        notes.append(f"Texts as given, not heard by a {RECOGNISER} as other rows may be: {'; '.join(given)}.")
    return " ".join(notes)
