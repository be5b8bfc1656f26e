"""HTML pages in one file: styles, script, pictures and sounds are embedded, all text is escaped."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    right: bool | None = None  # a tick or a cross before the text; None: neither
    small: str = ""  # a line in small print below the text
    marks: Mapping[str, bool] = dataclasses.field(default_factory=dict)  # named ticks and crosses below the text
    value: str | float | None = None  # what the column is sorted by; None: the text
    brief: bool = False  # a narrow column is enough


@dataclasses.dataclass(frozen=True)
class Histogram:
    """A bar chart, drawn as SVG. counts: one number a bar; edges: one more; lines: values marked by a vertical line."""

    caption: str
    counts: Sequence[int]
    edges: Sequence[float]
    lines: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with a table and the content below it; every part but the heading may be empty.

    style: "pairs" (names and values), "figures" (numbers, the last column counts) or "sortable".
    """

    heading: str
    rows: Sequence[Sequence[Cell | str]] = ()  # the first cell names the row
    columns: Sequence[str] = ()
    style: str = "pairs"
    notes: Sequence[str] = ()  # paragraphs
    terms: Sequence[tuple[str, str]] = ()  # terms and their definitions
    histograms: Sequence[Histogram] = ()
    code: str = ""  # text in a fixed-width font, its lines kept


@dataclasses.dataclass(frozen=True)
class Media:
    """The picture and the audio players of one item, as data URIs. alt: the item in words, for screen readers."""

    alt: str
    picture: str = ""
    sounds: Sequence[tuple[str, str]] = ()  # label, data URI

    def size(self) -> int:
        """Characters that it adds to the page."""
        return len(self.picture) + sum(len(uri) for _, uri in self.sounds)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the page's main table. right: tick or cross of the whole row. groups: what it can be filtered by."""

    cells: Sequence[Cell | str]  # the first one names the row
    media: Media | None = None
    right: bool | None = None
    groups: Sequence[str] = ()

    def state(self) -> str:
        """ "right", "wrong" or, unjudged, ""."""
        return "" if self.right is None else "right" if self.right else "wrong"

    def filters(self) -> list[str]:
        """The names of the filters that show this row."""
        return [name for name in (self.state(), *self.groups) if name]


@dataclasses.dataclass(frozen=True)
class Listing:
    """The page's main table: rows with pictures and sounds that can be sorted, searched and filtered."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""

    def filters(self) -> list[str]:
        """The names of the filters, empty without any: "" (all rows), verdicts that occur, groups as they appear."""
        states = [state for state in ("right", "wrong") if any(row.state() == state for row in self.rows)]
        names = list(dict.fromkeys([*states, *(group for row in self.rows for group in row.groups)]))
        return ["", *names] if names else []


@dataclasses.dataclass(frozen=True)
class Tile:
    """One main figure, in large print at the top of the page."""

    label: str
    value: str
    small: str = ""


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html")


def render(
    title: str,
    intro: Sequence[str],
    sections: Sequence[Section],
    listing: Listing | None = None,
    tiles: Sequence[Tile] = (),
    first: Sequence[Section] = (),
) -> str:
    """The page as HTML: title, paragraphs, main figures, first sections, the listing, and below it the sections."""
    return _template().render(title=title, intro=intro, tiles=tiles, first=first, sections=sections, listing=listing)


def data_uri(content: bytes, mime: str) -> str:
    """Bytes as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"
