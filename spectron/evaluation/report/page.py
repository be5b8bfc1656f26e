"""report.html: one file with everything in it (figures, pictures, sounds, verdicts), read without a network."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.audio import spectrogram_png
from spectron.config import FeatureConfig
from spectron.evaluation.picking import spreading
from spectron.evaluation.scores.intervals import Figure
from spectron.evaluation.scores.tables import Results, Table, meanings
from spectron.utils.files import write_text

LARGEST = 24_000_000  # ours: characters of sounds and pictures, some 120 answers; a browser opens that in a second
_LEFT_OUT = "Rows without a player have their verdicts all the same: only so many sounds fit into one file."
TEMPLATE = Path(__file__).with_name("page.html")
check = spectrogram_png.check

Mels = tuple[str, Float[np.ndarray, "T F"], Float[np.ndarray, "T2 F"]]  # a picture's row: label, before a line, behind


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one column says of an item. value: what the column is sorted by (the text)."""

    text: str
    right: bool | None = None  # a mark before the text
    small: str = ""  # below it
    marks: Mapping[str, bool] = dataclasses.field(default_factory=dict)  # named verdicts below it
    value: str | float | None = None
    brief: bool = False  # a narrow column is enough


@dataclasses.dataclass(frozen=True)
class Item:
    """One row of the page. right: all in all, None where nobody judged. groups: what it can be filtered by."""

    name: str
    cells: Mapping[str, Cell]  # column → cell
    sounds: Sequence[tuple[str, Int[np.ndarray, " S"]]] = ()  # label, int16 at the features' rate
    mels: Sequence[Mels] = ()
    right: bool | None = None
    groups: Sequence[str] = ()
    description: str = ""  # in words, for who does not see the picture
    small: str = ""  # below the name


@dataclasses.dataclass(frozen=True)
class Page:
    """All of a report. intro, shown: paragraphs of plain text. sections: HTML, as the functions below make it."""

    title: str
    intro: Sequence[str]
    sections: Sequence[str]
    items: Sequence[Item]
    shown: str
    features: FeatureConfig
    first: str = "Item"  # the head of the items' first column


def write(
    path: Path, results: Results, items: Sequence[Item], intro: Sequence[str], features: FeatureConfig, first: str
) -> None:
    """Write the report of a suite: its tables, who judged, its data and settings, and the items."""
    facts = [(_words(key), text) for key, value in results.facts.items() if (text := _plain(value))]
    data = [(entry.get("name", ""), _plain({k: v for k, v in entry.items() if k != "name"})) for entry in results.data]
    judges = [
        (judge["role"], _plain({k: v for k, v in judge.items() if k not in ("role", "checksum")}))
        for judge in results.judges
    ]
    told: set[tuple[str, str]] = set()
    sections = [table_section(table, told) for table in results.tables]
    for heading, rows in (("Judges", judges), ("Data", data), ("Settings", facts)):
        if rows:
            sections.append(pairs_section(heading, rows))
    write_page(path, Page(results.suite, intro, sections, items, "", features, first))


def write_page(path: Path, page: Page, largest: int = LARGEST) -> None:
    """Write the file. Sounds and pictures of as many items as `largest` characters hold, evenly spread, are in it."""
    media = [""] * len(page.items)
    room = largest
    for i in spreading(len(page.items)):
        made = _media(page.items[i], page.features)
        if len(made) > room:
            break
        media[i] = made
        room -= len(made)
    looks = any(media)
    left_out = looks and any(item.sounds and not made for item, made in zip(page.items, media, strict=True))
    columns = list(dict.fromkeys(column for item in page.items for column in item.cells))
    heads = [_head(page.first), *(['<th scope="col" class="fixed">Spectrograms and sound</th>'] if looks else [])]
    heads += [_head(column) for column in columns]
    rows = [_item_row(item, columns, look if looks else None) for item, look in zip(page.items, media, strict=True)]
    parts = {
        "title": html.escape(page.title),
        "heading": html.escape(page.title),
        "intro": "\n".join(f"<p>{html.escape(text)}</p>" for text in page.intro),
        "sections": "\n".join(page.sections),
        "listen": "Look and listen" if looks else "One by one",
        "shown": html.escape(" ".join([page.shown, *([_LEFT_OUT] if left_out else [])]).strip()),
        "filters": "\n".join(_filters(page.items)),
        "columns": "".join(heads),
        "items": "\n".join(rows),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, content in parts.items():
        text = text.replace(f"<!--{name}-->", content)
    write_text(path, text)


# Sections.


def section(heading: str, content: str, below: str = "") -> str:
    """A heading and a table that can be scrolled with the keyboard."""
    name = html.escape(heading)
    return f'<h2>{name}</h2>\n<div class="box" role="region" aria-label="{name}" tabindex="0">{content}</div>{below}'


def table_section(table: Table, told: set[tuple[str, str]] | None = None) -> str:
    """A table of figures with intervals, and what its columns mean but for what was told before (`told` grows)."""
    told = set() if told is None else told
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("", *table.columns, "n"))
    rows = []
    for name, row in table.rows.items():
        cells = "".join(_figure_cell(row.get(column)) for column in table.columns)
        counts = dict.fromkeys(str(n) for n in sorted({figure.n for figure in row.values()}))
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}<td>{"–".join(counts)}</td></tr>')
    new = [pair for pair in meanings(table).items() if pair not in told]
    told.update(new)
    lines = [line for line in table.note.splitlines() if line]
    below = "".join(f"\n<p>{html.escape(line)}</p>" for line in lines if not line.startswith("- "))
    terms = [line.removeprefix("- ").partition(": ") for line in lines if line.startswith("- ")]
    pairs = [*((term, text) for term, _, text in terms), *new]
    listed = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in pairs)
    below += f"\n<dl>{listed}</dl>" if pairs else ""
    content = f'<table class="figures"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return section(table.title, content, below)


def _figure_cell(figure: Figure | None) -> str:
    if figure is None:
        return "<td>–</td>"
    return f"<td><b>{html.escape(figure.text())}</b><small>{html.escape(figure.interval_text())}</small></td>"


def figures_section(heading: str, figures: Sequence[Figure]) -> str:
    """A line per figure with its definition."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Figure", "Value", "95&nbsp;% interval", "n"))
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(f.label)}<small>{html.escape(f.definition)}</small></th>'
        f"<td><b>{html.escape(f.text())}</b></td><td>{html.escape(f.interval_text())}</td><td>{f.n}</td></tr>"
        for f in figures
    ).replace("95 %", "95&nbsp;%")
    return section(heading, f'<table class="figures"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>')


def pairs_section(heading: str, rows: Sequence[tuple[str, str]]) -> str:
    """Names and what is said of them."""
    lines = "".join(f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}</td></tr>' for k, v in rows)
    return section(heading, f'<table class="pairs"><tbody>{lines}</tbody></table>')


def cells_section(heading: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A sortable table; the first cell of a row names it."""
    heads = "".join(_head(column) for column in columns)
    lines = "".join(f"<tr>{_cell(row[0], 'th')}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    return section(heading, f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>')


def _words(key: str) -> str:
    return str(key).replace("_", " ")


def _plain(value: Any) -> str:
    """A fact as people read it; "" where there is nothing to say."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {text}" for key, each in value.items() if (text := _plain(each)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# Items.


def _head(name: str) -> str:
    return f'<th scope="col">{html.escape(name)}</th>'


def _filters(items: Sequence[Item]) -> list[str]:
    names = [name for name in ("right", "wrong") if any(_state(item) == name for item in items)]
    names += dict.fromkeys(group for item in items for group in item.groups)
    buttons = ['<button type="button" data-filter="" aria-pressed="true">all</button>']
    return buttons + [
        f'<button type="button" data-filter="{html.escape(name)}" aria-pressed="false">{html.escape(name)}</button>'
        for name in names
    ]


def _state(item: Item) -> str:
    return "" if item.right is None else "right" if item.right else "wrong"


def _item_row(item: Item, columns: Sequence[str], look: str | None) -> str:
    state = _state(item)
    groups = html.escape("|".join([*([state] if state else []), *item.groups]))
    cells = "".join(_cell(item.cells[column]) if column in item.cells else "<td>–</td>" for column in columns)
    small = f"<small>{html.escape(item.small)}</small>" if item.small else ""
    middle = "" if look is None else f'<td class="look">{look or "–"}</td>'
    return (
        f'<tr data-state="{state}" data-groups="{groups}"><th scope="row"><b>{html.escape(item.name)}</b>{small}</th>'
        f"{middle}{cells}</tr>"
    )


def _cell(cell: Cell, tag: str = "td") -> str:
    value = "" if cell.value is None else f' data-value="{html.escape(str(cell.value))}"'
    kind = ' scope="row"' if tag == "th" else ' class="brief"' if cell.brief else ""
    before = "" if cell.right is None else f"{mark(cell.right)} "
    below = f"<small>{html.escape(cell.small)}</small>" if cell.small else ""
    marks = "<br>".join(f"{mark(right)} {html.escape(name)}" for name, right in cell.marks.items())
    below += f'<small class="marks">{marks}</small>' if marks else ""
    return f"<{tag}{kind}{value}>{before}{html.escape(cell.text) or '—'}{below}</{tag}>"


def _media(item: Item, features: FeatureConfig) -> str:
    """The item's picture and players."""
    name = html.escape(item.description or item.name)
    picture = ""
    if item.mels:
        png = spectrogram_png.spectrograms(item.mels, features)
        picture = f'<img alt="Spectrograms of {name}" src="{data_uri(png, "image/png")}">'
    players = "".join(
        f'<label>{html.escape(label)}<audio controls preload="none" aria-label="{html.escape(label)}, {name}" '
        f'src="{flac_uri(samples, features.sample_rate)}"></audio></label>'
        for label, samples in item.sounds
        if len(samples)
    )
    return picture + (f'<div class="players">{players}</div>' if players else "")


def mark(right: bool) -> str:
    """A verdict for the eye and for a screen reader."""
    return (
        '<span class="yes" role="img" aria-label="right">✓</span>'
        if right
        else '<span class="no" role="img" aria-label="wrong">✗</span>'
    )


def flac_uri(samples: Int[np.ndarray, " S"], sample_rate: int) -> str:
    """int16 [S] as a FLAC file inside a data URI: the very samples in about half the size."""
    return _sound_uri(samples, sample_rate, "FLAC", "audio/flac")


def wav_uri(samples: Int[np.ndarray, " S"], sample_rate: int) -> str:
    """int16 [S] as a WAV file inside a data URI."""
    return _sound_uri(samples, sample_rate, "WAV", "audio/wav")


def _sound_uri(samples: Int[np.ndarray, " S"], sample_rate: int, kind: str, mime: str) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.asarray(samples, np.int16), sample_rate, format=kind, subtype="PCM_16")
    return data_uri(file.getvalue(), mime)


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
