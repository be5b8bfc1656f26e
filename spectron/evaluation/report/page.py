"""report.html of a suite: tables of figures, judges, data, settings, and the items with pictures and sounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.audio import spectrogram_png
from spectron.config import FeatureConfig
from spectron.data.shards import encode_flac
from spectron.evaluation.results import Figure, Results, Table, meanings
from spectron.utils.files import write_text
from spectron.utils.html import Cell, Listing, Media, Row, Section, Tile, data_uri, render
from spectron.utils.spacing import evenly_spaced_order

MAX_MEDIA = 24_000_000  # ours: characters of sounds and pictures, some 120 answers; a browser opens that in a second
MEDIA_LEFT_OUT = (
    "Rows without a player were judged like the others: only some rows have sounds, to keep the page small."
)
MAIN_FIGURES = 5  # ours

Mels = tuple[str, Float[np.ndarray, "T F"], Float[np.ndarray, "T2 F"]]  # label, log-mel before and after a line


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of the page."""

    name: str
    cells: Mapping[str, Cell]  # column → cell
    sounds: Sequence[tuple[str, Int[np.ndarray, " S"]]] = ()  # label, int16 at the features' sample rate
    mels: Sequence[Mels] = ()
    right: bool | None = None  # the verdict on the whole item; None: not judged
    groups: Sequence[str] = ()  # names of filters that show it
    description: str = ""  # the pictures in words, for screen readers
    small: str = ""  # small print below the name


def write(
    path: Path,
    results: Results,
    items: Sequence[Item],
    intro: Sequence[str],
    features: FeatureConfig,
    first: str = "Item",
    max_media: int = MAX_MEDIA,
    title: str = "",
    main: Sequence[str] = (),
) -> None:
    """Write the report of a suite: its main figures, items, tables, judges, data and settings. Raises UserError.

    intro: paragraphs. first: the heading of the items' first column. title: instead of the suite's name. main: columns
    of the first table whose figures, of its first row, stand at the top; () takes the first five. max_media: characters
    of sounds and pictures; of items that need more, an evenly spaced part has them.
    """
    facts = [(_words(key), text) for key, value in results.facts.items() if (text := _plain(value))]
    data = [(entry.get("name", ""), _plain({k: v for k, v in entry.items() if k != "name"})) for entry in results.data]
    judges = [
        (judge["role"], _plain({k: v for k, v in judge.items() if k not in ("role", "checksum")}))
        for judge in results.judges
    ]
    defined: set[tuple[str, str]] = set()
    sections = [table_section(table, defined) for table in results.tables]
    pairs = {"Judges": judges, "Data": data, "Settings": facts}
    sections += [Section(heading, rows) for heading, rows in pairs.items() if rows]
    media = _media_of(items, features, max_media)
    columns = list(dict.fromkeys(column for item in items for column in item.cells))
    rows = [
        Row(
            cells=[Cell(item.name, small=item.small), *(item.cells.get(column, "–") for column in columns)],
            media=item_media,
            right=item.right,
            groups=item.groups,
        )
        for item, item_media in zip(items, media, strict=True)
    ]
    left_out = any(media) and any(item.sounds and not m for item, m in zip(items, media, strict=True))
    heading = "Look and listen" if any(media) else "One by one"
    listing = Listing(heading, [first, *columns], rows, MEDIA_LEFT_OUT if left_out else "")
    write_text(path, render(title or results.suite, intro, sections, listing, _tiles(results.tables, main)))


def _tiles(tables: Sequence[Table], main: Sequence[str]) -> list[Tile]:
    """The main figures of the first table's first row."""
    figures = next(iter(tables[0].rows.values()), {}) if tables else {}
    chosen = [column for column in main or figures if column in figures][:MAIN_FIGURES]
    return [Tile(column, figures[column].text(), f"{figures[column].interval_text()}") for column in chosen]


def _media_of(items: Sequence[Item], features: FeatureConfig, max_media: int) -> list[Media | None]:
    """Pictures and sounds of as many items as max_media characters hold, evenly spaced."""
    media: list[Media | None] = [None] * len(items)
    remaining = max_media
    for i in evenly_spaced_order(len(items)):
        item_media = _media(items[i], features)
        remaining -= item_media.size()
        if remaining < 0:
            break
        media[i] = item_media if item_media.size() else None
    return media


def table_section(table: Table, defined: set[tuple[str, str]] | None = None) -> Section:
    """A table of figures with intervals, and the definitions of its columns.

    defined: definitions that earlier sections state; this table's are added.
    """
    defined = set() if defined is None else defined
    rows = []
    for name, figures in table.rows.items():
        cells = [_figure_cell(figures.get(column)) for column in table.columns]
        counts = "–".join(str(n) for n in sorted({figure.n for figure in figures.values()}))
        rows.append([name, *cells, counts])
    new = [pair for pair in meanings(table).items() if pair not in defined]
    defined.update(new)
    lines = [line for line in table.note.splitlines() if line]
    notes = [line for line in lines if not line.startswith("- ")]
    listed = [line.removeprefix("- ").partition(": ") for line in lines if line.startswith("- ")]
    terms = [*((term, text) for term, _, text in listed), *new]
    return Section(table.title, rows, ("", *table.columns, "n"), "figures", notes, terms)


def _figure_cell(figure: Figure | None) -> Cell | str:
    return "–" if figure is None else Cell(figure.text(), small=figure.interval_text())


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _plain(value: Any) -> str:
    """A value of results.json in words; "" for an empty one."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {text}" for key, each in value.items() if (text := _plain(each)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _media(item: Item, features: FeatureConfig) -> Media:
    """The item's spectrograms as one picture, and its sounds but the empty ones."""
    picture = data_uri(spectrogram_png.spectrograms(item.mels, features), "image/png") if item.mels else ""
    rate = features.sample_rate
    sounds = [(label, data_uri(encode_flac(s, rate), "audio/flac")) for label, s in item.sounds if len(s)]
    return Media(item.description or item.name, picture, sounds)
