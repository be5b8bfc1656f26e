"""Examples from recorded corpora: manifests (JSONL or TSV), LibriSpeech and LJSpeech."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectron.audio import wav
from spectron.audio.finding import Found, by_stem, find_files, recordings_in
from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.fitting import SMALL, Fitting
from spectron.data.measuring import stamp_of
from spectron.types import Example, UserError
from spectron.utils.environment import cache_folder
from spectron.utils.stored_arrays import digest, stored_arrays
from spectron.utils.text_files import Row, kind_of, read_lines, read_rows, read_table

BROKEN, NO_RECORDING = "lines that are broken", "without a recording"  # keys of `rejected`
TRANSCRIPTS = ".trans.txt"  # end of the names of LibriSpeech's transcripts
LONGEST_SECONDS = 1e9  # ours: 30 years; a longer time in a manifest is a mistake


class Record(NamedTuple):
    """One utterance before its audio is read."""

    id: str
    audio: str  # path
    text: str
    speaker: str = ""
    seconds: float = 0.0  # 0: not known yet
    prompt_seconds: float = 0.0  # 0: data.prompt_seconds
    word_ends: tuple[float, ...] = ()  # end of each word of the text in seconds; (): unknown
    split: str = ""  # "": not stated


class RecordingSource(Source):
    """Recordings with texts that fit the limits of the data config; `rejected` names the others, by reason."""

    reads_files = True
    seeded = False
    normalises = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        self.rejected: dict[str, list[str]] = {}
        self._data = data
        self._rate = features.sample_rate
        self._fitting = Fitting(task, data, features)
        layout = {"manifest": _manifest, "librispeech": _librispeech, "ljspeech": ljspeech_records}[task.source]
        listed = layout(task, task.root or data.root, self.rejected)
        records = [record._replace(text=self._fitting.text(record.text)) for record in listed]
        seconds, tokens = self._seconds(records), None
        longest = max((len(record.text.encode()) for record in records), default=0)
        if self._fitting.may_be_long(longest, raw=False):
            tokens = self._fitting.stored_tokens([record.text for record in records])
        usable = [i for i, record in enumerate(records) if self._is_usable(record, seconds[i], tokens, i)]
        self._records = [records[i] for i in usable]
        self.lengths = np.asarray([round(seconds[i] * self._rate) for i in usable], np.int64)
        self.prompts = np.asarray([self._prompt(record) for record in self._records], np.int64)
        if tokens is not None:
            self.tokens = tokens[usable]

    def _is_usable(self, record: Record, seconds: float, tokens: np.ndarray | None, i: int) -> bool:
        """Whether a record fits; it is added to `rejected` if not. seconds: NaN if its file cannot be read."""
        prompt = record.prompt_seconds or self._data.prompt_seconds
        if math.isnan(seconds):
            self.rejected.setdefault("that cannot be read", []).append(record.audio)
            return False
        count = None if tokens is None else int(tokens[i])
        reason = self._fitting.misfit(seconds, prompt, record.text, count)
        if reason:
            self.rejected.setdefault(reason, []).append(record.id)
        return not reason

    def _seconds(self, records: list[Record]) -> list[float]:
        """The length of each recording: as stated, else of the file's header, NaN if that cannot be read."""
        unknown = [record.audio for record in records if not record.seconds]

        def measure() -> Mapping[str, np.ndarray]:
            return {"seconds": np.asarray([_seconds_of(path) for path in unknown], np.float64)}

        if len(unknown) < SMALL:
            measured = measure()
        else:  # reading so many headers takes longer than to see that no file has changed
            key = digest([path, *stamp_of(path)] for path in unknown)
            measured = stored_arrays([cache_folder() / "lengths" / key[:32]], key, measure)
        found = iter(measured["seconds"].tolist())
        return [record.seconds or next(found) for record in records]

    def _prompt(self, record: Record) -> int:
        return round((record.prompt_seconds or self._data.prompt_seconds) * self._rate)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int32 [N]: tokens of each text, including eos."""
        return self._fitting.stored_tokens([record.text for record in self._records])

    def __len__(self) -> int:
        return len(self._records)

    def text_of(self, i: int) -> str:
        """The text of record i."""
        return self._records[i].text

    def __getitem__(self, i: int) -> Example:
        record = self._records[i]
        prompt_seconds = record.prompt_seconds or self._data.prompt_seconds
        try:
            samples = wav.read(record.audio, self._rate)
        except UserError as error:
            raise BadExample(f"{record.id!r}: {error}") from error
        # Check again: durations in manifests are rounded.
        reason = self._fitting.misfit(len(samples) / self._rate, prompt_seconds, record.text)
        if reason:
            raise BadExample(f"{record.id!r}: Audio file {record.audio!r} is {reason}.")
        if not samples.any():
            raise BadExample(f"{record.id!r}: Audio file {record.audio!r} is silent.")
        return Example(
            samples=samples,
            prompt_samples=self._prompt(record),
            text=record.text,
            id=record.id,
            speaker=record.speaker,
            word_ends=tuple(round(end * self._rate) for end in record.word_ends),
        )


def _seconds_of(path: str) -> float:
    try:
        return wav.seconds_of(path)
    except OSError:
        return math.nan


def _manifest(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    path = Path(root)
    if path.is_dir():
        path = next((path / name for name in ("manifest.jsonl", "manifest.tsv") if (path / name).is_file()), path)
    if not path.is_file():
        raise UserError(
            f"Task {task.name!r}: root {root!r} is not a manifest; give a .jsonl or .tsv file, or a folder with "
            f"manifest.jsonl or manifest.tsv."
        )
    for number, row in _table_rows(path) if kind_of(path) in (".tsv", ".csv") else read_rows(path):
        if row is not None and row.get("split", task.split) != task.split:
            continue
        try:
            if row is None:
                raise ValueError
            yield record_of(path, number, row)
        except (KeyError, TypeError, ValueError) as error:
            rejected.setdefault(BROKEN, []).append(broken_line(f"{path}:{number}", error))


def broken_line(place: str, error: Exception) -> str:
    """The place of a line that is not a record, with the reason if it is known."""
    reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) * isinstance(error, ValueError)
    return f"{place} ({reason})" if reason else place


def record_of(path: Path, number: int, row: dict[str, Any]) -> Record:
    """The record of one line of a manifest. Raises KeyError, TypeError or ValueError for a row that is not one."""
    audio = row["audio"]
    text = row["text"]
    if not (isinstance(audio, str) and audio and isinstance(text, str)):
        raise ValueError("audio and text must be strings")
    ends = row.get("word_ends") or ()
    times = ends.split() if isinstance(ends, str) else list(ends)
    word_ends = tuple(_seconds("word_ends", end) for end in times)
    if word_ends and (len(word_ends) != len(text.split()) or list(word_ends) != sorted(word_ends) or word_ends[0] <= 0):
        raise ValueError("word_ends must be one ascending time above 0 per word")
    record = Record(
        id=str(row.get("id") or f"{path.name}:{number}"),
        audio=str(path.parent / audio),
        text=" ".join(text.split()),
        speaker=str(row.get("speaker") or ""),
        seconds=_seconds("duration", row.get("duration") or 0),
        prompt_seconds=_seconds("prompt_seconds", row.get("prompt_seconds") or 0),
        word_ends=word_ends,
        split=str(row.get("split") or ""),
    )
    _check_characters(record)
    return record


def _seconds(name: str, value: Any) -> float:
    """A time from a manifest. Raises ValueError unless it is a number from 0 to LONGEST_SECONDS."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_SECONDS:  # NaN is not either
        raise ValueError(f"its {name} {str(value)[:40]!a} is not a number of seconds")
    return seconds


def _check_characters(record: Record) -> None:
    """Raise ValueError for a lone surrogate, which JSON can express and UTF-8 cannot, or a NUL in a file's name."""
    for name, value in (("id", record.id), ("text", record.text), ("speaker", record.speaker), ("split", record.split)):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"its {name} has a lone surrogate")
    try:
        if b"\0" in os.fsencode(record.audio):
            raise ValueError("its audio has a NUL character")
    except UnicodeEncodeError as error:
        raise ValueError("its audio has a lone surrogate") from error


def _table_rows(path: Path) -> Iterator[Row]:
    rows = read_table(path)
    if not {"audio", "text"} <= set(next(rows, (0, {}))[1] or {}):
        raise UserError(f"Manifest {str(path)!r} has no columns 'audio' and 'text' in its first line; add that header.")
    yield from rows


def _librispeech(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    folders = [Path(root) / task.split, Path(root) / "LibriSpeech" / task.split]
    folder = next((f for f in folders if f.is_dir()), None)
    if not root or folder is None:
        raise UserError(
            f"Task {task.name!r}: {root!r} has no folder {task.split!r}; set the task's root and split (dev-clean, …)."
        )
    yield from librispeech_records(folder, rejected)


def librispeech_records(folder: Path, rejected: dict[str, list[str]]) -> Iterator[Record]:
    """The records of all *.trans.txt below a folder; lines without a recording go to `rejected`."""
    found = find_files(folder)
    _reject_formats(found, rejected)
    for transcripts in sorted(path for path in found.others if path.name.lower().endswith(TRANSCRIPTS)):
        yield from chapter_records(transcripts, rejected)


def _reject_formats(found: Found, rejected: dict[str, list[str]]) -> None:
    if found.unreadable:
        reason = "in formats that cannot be read (convert them to WAV or FLAC)"
        rejected.setdefault(reason, []).extend(map(str, found.unreadable))


def chapter_records(transcripts: Path, rejected: dict[str, list[str]]) -> Iterator[Record]:
    """The records of one *.trans.txt: lines of a name, a space or tab, and a text; the recordings are beside it."""
    present = recordings_in(transcripts.parent)
    for number, line in read_lines(transcripts):
        name, text, *_ = *line.split(None, 1), "", ""
        if not name or not text:
            rejected.setdefault(BROKEN, []).append(f"{transcripts}:{number}")
        elif name not in present:
            rejected.setdefault(NO_RECORDING, []).append(f"{name} ({transcripts.parent})")
        else:
            yield Record(id=name, audio=str(present[name]), text=" ".join(text.split()), speaker=name.split("-")[0])


def ljspeech_records(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    """The records of metadata.csv (id|text|normalised text, no quoting) next to wavs/, or another folder of audio."""
    folders = [Path(root), Path(root) / "LJSpeech-1.1"]
    folder = next((f for f in folders if (f / "metadata.csv").is_file()), None)
    if not root or folder is None:
        raise UserError(f"Task {task.name!r}: {root!r} has no metadata.csv; give the folder of LJSpeech-1.1.")
    found = find_files(folder)
    _reject_formats(found, rejected)
    present = by_stem([path for path in found.audio if path.parent != folder])
    path = folder / "metadata.csv"
    for number, line in read_lines(path):
        name, *texts = line.split("|")
        text = " ".join((texts[-1] or texts[0]).split()) if 1 <= len(texts) <= 2 else ""
        if not name or not text:
            rejected.setdefault(BROKEN, []).append(f"{path}:{number}")
        elif name not in present:
            rejected.setdefault(NO_RECORDING, []).append(f"{name} ({folder})")
        else:
            yield Record(id=name, audio=str(present[name]), text=text, speaker="LJ")
