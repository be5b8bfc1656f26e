"""Recordings and their texts in a folder: manifests, LibriSpeech, LJSpeech, Common Voice, or a text file each.

`list_recordings` detects the layout. Training reads the manifest that `spectron data inspect` writes, not these.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectron.audio.finding import COMMON, find_files
from spectron.config import TaskConfig
from spectron.data.recordings import (
    BROKEN,
    NO_RECORDING,
    TRANSCRIPTS,
    Record,
    broken_line,
    librispeech_records,
    ljspeech_records,
    record_of,
)
from spectron.types import UserError
from spectron.utils.text_files import EncodingError, Row, kind_of, read_lines, read_rows, read_table, read_text

TABLES = (".jsonl", ".tsv", ".csv")
HEAD = 1 << 12  # ours: bytes of a table in another encoding in which the names of columns are looked for
TEXT_SUFFIXES = (".normalized.txt", ".txt", ".lab")  # of the text file of one recording; the first that exists
MANIFESTS = ("manifest", "metadata")  # names of a folder's manifest, without suffix
# Columns of manifests by other programs (Common Voice, Hugging Face's audiofolder, NeMo) → ours.
COLUMNS = {
    "audio": ("audio", "path", "file", "file_name", "filename", "audio_filepath", "audio_file", "wav"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id", "utterance_id"),
    "split": ("split",),
    "prompt_seconds": ("prompt_seconds",),
    "word_ends": ("word_ends",),
}


@dataclasses.dataclass
class Listing:
    """The recordings of a folder.

    layout: what was detected, in words. records: one per recording, with the text "" if it has none. rejected: names of
    lines and texts that belong to no recording, by reason. unsupported: recordings in a format that cannot be read.
    undecodable: recording → why its text file is not UTF-8 text; its record has the text "".
    """

    layout: str
    records: list[Record]
    rejected: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unsupported: list[str] = dataclasses.field(default_factory=list)
    undecodable: dict[str, str] = dataclasses.field(default_factory=dict)


class Files:
    """The files below a folder, except hidden ones and those in the folder `leave_out`."""

    def __init__(self, root: Path, leave_out: Path | None = None):
        found = find_files(root, leave_out)
        self.audio, self.unsupported, self.others = found.audio, found.unreadable, found.others
        self._by_name: dict[str, Path | None] = {}  # file name, and file name without suffix; None: several files
        for path in self.audio:
            for name in {path.name, path.stem}:
                self._by_name[name] = path if name not in self._by_name else None

    def find(self, folder: Path, name: str) -> Path | None:
        """The recording that a manifest in `folder` names: a path, or the name of one file anywhere, with or without
        suffix. None if there is no such file."""
        path = folder / name
        if os.path.isfile(path):  # False for a name that no file can have, for which Path.is_file raises OSError
            return path
        return self._by_name.get(Path(name).name) or self._by_name.get(Path(name).stem)


def list_recordings(root: str | Path, leave_out: str | Path | None = None) -> Listing:
    """The recordings of a folder in any known layout, or of a manifest. leave_out: a folder that is not searched.

    Raises UserError if there are none, or the manifest cannot be read.
    """
    path = Path(root).absolute()
    if path.is_file():
        if kind_of(path) not in TABLES:
            raise UserError(
                f"{str(path)!r} is neither a folder nor a manifest (.jsonl, .tsv, .csv); give the folder that holds it."
            )
        return _checked(_from_table(path, Files(path.parent)), path)
    if not path.is_dir():
        raise UserError(
            f"{str(path)!r} does not exist; give a folder of recordings, or a manifest (.jsonl, .tsv, .csv)."
        )
    files = Files(path, Path(leave_out).resolve() if leave_out else None)
    if not files.audio and not files.unsupported:
        raise UserError(f"{str(path)!r} has no recordings ({COMMON}); give the folder that has them.")
    listing = _checked(_detect(path, files), path)
    listing.unsupported += map(str, files.unsupported)
    known = {os.path.realpath(record.audio) for record in listing.records}
    rest = [audio for audio in files.audio if os.path.realpath(audio) not in known]
    listing.records += [Record(id=_name(audio, path), audio=str(audio), text="") for audio in rest]
    return listing


def _checked(listing: Listing, path: Path) -> Listing:
    if not listing.records and not listing.unsupported and listing.rejected:
        reason, names = next(iter(listing.rejected.items()))
        raise UserError(f"{str(path)!r} names no recording that exists: {len(names)} {reason}, the first: {names[0]}.")
    return listing


def _detect(root: Path, files: Files) -> Listing:
    """The layout of a folder. A manifest of ours comes first, because somebody wrote it on purpose."""
    tables = [root / f"{name}{suffix}" for name in MANIFESTS for suffix in TABLES]
    for table in [t for t in tables if t.is_file()]:
        if table.name == "metadata.csv" and _is_ljspeech(table):
            return _from_ljspeech(root)
        return _from_table(table, files)
    if any(path.name.lower().endswith(TRANSCRIPTS) for path in files.others):
        return _from_librispeech(root)
    if (root / "LJSpeech-1.1" / "metadata.csv").is_file():
        return _from_ljspeech(root)
    voices = (path.parent for path in files.others if path.name in ("validated.tsv", "train.tsv"))
    if folder := next((f for f in voices if (f / "clips").is_dir()), None):
        return _from_common_voice(folder, files)
    found = [p for p in files.others if p.parent == root and kind_of(p) in TABLES]
    readable = [p for p in found if "audio" in _columns(p)]
    if len(readable) == 1:
        return _from_table(readable[0], files)
    if len(readable) > 1:
        names = ", ".join(p.name for p in readable)
        raise UserError(f"{str(root)!r} has several manifests ({names}); give the path of one instead of the folder.")
    return _from_text_files(root, files)


def _from_librispeech(root: Path) -> Listing:
    rejected: dict[str, list[str]] = {}
    records = list(librispeech_records(root, rejected))
    return Listing("LibriSpeech layout (*.trans.txt)", records, rejected)


def _is_ljspeech(table: Path) -> bool:
    first = next((line for _, line in read_lines(table) if line.strip()), "")
    return "|" in first and "\t" not in first


def _from_ljspeech(root: Path) -> Listing:
    rejected: dict[str, list[str]] = {}
    records = list(ljspeech_records(TaskConfig("recordings", "ljspeech"), str(root), rejected))
    return Listing("LJSpeech layout (metadata.csv)", records, rejected)


def _from_common_voice(folder: Path, files: Files) -> Listing:
    """validated.tsv without what is in dev.tsv and test.tsv, or else train.tsv."""
    validated = folder / "validated.tsv"
    if not validated.is_file():
        listing = _from_table(folder / "train.tsv", files)
        return dataclasses.replace(listing, layout="Common Voice layout (clips/ with train.tsv)")
    listing = _from_table(validated, files)
    kept_out = [folder / f"{name}.tsv" for name in ("dev", "test") if (folder / f"{name}.tsv").is_file()]
    others = {record.audio for table in kept_out for record in _from_table(table, files).records}
    # With the split "unused" they are in the listing but neither trained on nor held out.
    records = [r._replace(split="unused") if r.audio in others else r for r in listing.records]
    without = f", without those of {' and '.join(t.name for t in kept_out)}" if kept_out else ""
    return Listing(f"Common Voice layout (clips/ with validated.tsv{without})", records, listing.rejected)


def _from_text_files(root: Path, files: Files) -> Listing:
    """x.wav with x.txt next to it, or with the only x.txt below the root. Folders are taken for speakers."""
    texts: dict[str, Path | None] = {}
    by_path: set[Path] = set()
    for path in files.others:
        suffix = next((s for s in TEXT_SUFFIXES if path.name.lower().endswith(s)), "")
        if suffix:
            by_path.add(path)
            stem = path.name[: -len(suffix)]
            same = texts.get(stem)
            # x.normalized.txt and x.txt in one folder belong to one recording; the order of suffixes decides.
            texts[stem] = path if stem not in texts or (same and same.parent == path.parent) else None
    top = Path(os.path.commonpath([audio.parent for audio in files.audio])) if files.audio else root
    records, used = [], set()
    undecodable = {}
    for audio in files.audio:
        beside = (audio.with_name(audio.stem + suffix) for suffix in TEXT_SUFFIXES)
        written = next((p for p in beside if p in by_path), None) or texts.get(audio.stem)
        text = ""
        if written:
            used |= {written, *(written.with_name(audio.stem + suffix) for suffix in TEXT_SUFFIXES)}
            try:
                text = " ".join(read_text(written).split())
            except EncodingError as error:
                undecodable[str(audio)] = str(error)
        inside = audio.relative_to(top).parts
        speaker = inside[0] if len(inside) > 1 else ""
        records.append(Record(id=_name(audio, root), audio=str(audio), text=text, speaker=speaker))
    if not used:
        return Listing("recordings without texts", records)
    speakers = {record.speaker for record in records}
    folders = f"; the {len(speakers)} folders are taken for speakers" if len(speakers) > 1 else ""
    listing = Listing(f"one text file per recording (NAME.wav and NAME.txt){folders}", records, undecodable=undecodable)
    if alone := sorted(by_path - used):
        listing.rejected[NO_RECORDING] = [str(path) for path in alone]
    return listing


def _from_table(table: Path, files: Files) -> Listing:
    """A manifest: JSONL, or TSV or CSV with a header."""
    rejected: dict[str, list[str]] = {}
    records = []
    for number, row in _rows(table):
        place = f"{table.name}:{number}"
        try:
            if row is None:
                raise ValueError
            ours = _renamed(row)
            audio = files.find(table.parent, ours["audio"])
            if audio is None:
                rejected.setdefault(NO_RECORDING, []).append(f"{ours['audio']} ({place})")
                continue
            default = {"id": Path(ours["audio"]).with_suffix("").as_posix(), "text": ""}
            records.append(record_of(table, number, {**default, **ours, "audio": str(audio.absolute())}))
        except (KeyError, TypeError, ValueError) as error:
            rejected.setdefault(BROKEN, []).append(broken_line(place, error))
    return Listing(f"manifest {table.name}", records, rejected)


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """A row with our names of columns. Raises KeyError without audio, TypeError if its name is not a text."""
    ours = {name: row[column] for name, columns in COLUMNS.items() for column in reversed(columns) if row.get(column)}
    if not isinstance(ours["audio"], str):
        raise TypeError("audio must be a string")
    return ours


def _rows(table: Path) -> Iterator[Row]:
    """(line number, row; None for a broken line). Raises UserError if the columns are not there."""
    if kind_of(table) == ".jsonl":
        return read_rows(table)
    rows = read_table(table)
    if "audio" not in _ours_of(next(rows, (0, None))[1]):
        raise UserError(
            f"Manifest {str(table)!r} has no column for recordings in its first line; name it 'audio', and the texts "
            f"'text'."
        )
    return rows


def _columns(table: Path) -> set[str]:
    """Which of our columns a manifest has, by its header or its first object; none for a table of another kind.

    Raises UserError for a manifest that is not UTF-8 text.
    """
    rows = read_rows(table) if kind_of(table) == ".jsonl" else read_table(table)
    try:
        return _ours_of(next((row for _, row in rows if row is not None), None))
    except EncodingError:
        words = re.findall(rb"\w+", table.read_bytes()[:HEAD].replace(b"\0", b""))
        if any(column.encode() in words for column in COLUMNS["audio"]):
            raise
        return set()
    except UserError:
        return set()


def _ours_of(first: dict[str, Any] | None) -> set[str]:
    return {name for name, columns in COLUMNS.items() if any(column in (first or {}) for column in columns)}


def _name(audio: Path, root: Path) -> str:
    """The path below a folder without suffix; bytes that are not UTF-8 become escapes."""
    return audio.relative_to(root).with_suffix("").as_posix().encode(errors="backslashreplace").decode()
