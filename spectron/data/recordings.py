"""Examples from recorded corpora: manifests (JSONL or TSV), LibriSpeech, LJSpeech, and plain text files."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectron.audio import wav
from spectron.audio.finding import Found, by_stem, find_files, recordings_in
from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.types import Example, UserError
from spectron.utils.text_files import Row, kind_of, read_lines, read_rows, read_table

log = logging.getLogger(__name__)

TEXTS = "texts.txt"  # a text source's file in a folder
BROKEN, NO_RECORDING = "lines that are broken", "without a recording"  # keys of `rejected`
TRANSCRIPTS = ".trans.txt"  # end of the names of LibriSpeech's transcripts
LONGEST_SECONDS = 1e9  # ours: 30 years; a longer time in a manifest is a mistake
NAMED = 5  # ours: number of rejected records named in the log; `rejected` has all of them


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


SPARE_TOKENS = 2  # eos and SentencePiece's leading space: a text has at most as many tokens as bytes, plus these


class Fitting:
    """Checks utterances against the limits of the data config."""

    def __init__(self, data: DataConfig, features: FeatureConfig):
        self._data = data
        self._rate = features.sample_rate
        self._vocabulary = make_vocabulary(data.vocabulary)

    def misfit(self, seconds: float, prompt: float, text: str) -> str:
        """Why an utterance cannot be used; "" if it can. seconds, prompt: its length and its prompt's, in seconds."""
        data = self._data
        if seconds < prompt + data.min_continuation_seconds:
            return "shorter than the prompt plus min_continuation_seconds"
        if seconds > data.max_seconds:
            return "longer than max_seconds"
        if prompt > data.max_prompt_seconds:
            return "prompt longer than max_prompt_seconds"
        if seconds - prompt > data.max_continuation_seconds:
            return "continuation longer than max_continuation_seconds"
        return self.text_misfit(text)

    def text_misfit(self, text: str) -> str:
        """Why a text cannot be used; "" if it can."""
        if not text:
            return "without text"
        if len(text.encode()) + SPARE_TOKENS <= self._data.max_tokens:
            return ""
        return "more tokens than max_tokens" if self.tokens([text])[0] > self._data.max_tokens else ""

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [N]: tokens of each text, including eos."""
        return np.asarray([len(encode_target(self._vocabulary, text)[0]) for text in texts], np.int64)


class RecordingSource(Source):
    """Recordings with texts that fit the limits of the data config; `rejected` names the others, by reason."""

    reads_files = True
    seeded = False

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        self.rejected: dict[str, list[str]] = {}
        self._name = task.name
        self._data = data
        self._rate = features.sample_rate
        self._fitting = Fitting(data, features)
        layout = {"manifest": _manifest, "librispeech": _librispeech, "ljspeech": ljspeech_records}[task.source]
        records = layout(task, task.root or data.root, self.rejected)
        usable = [(record, seconds) for record in records if (seconds := self._usable(record)) is not None]
        self._records = [record for record, _ in usable]
        self.lengths = np.asarray([round(seconds * self._rate) for _, seconds in usable], np.int64)
        self.prompts = np.asarray([self._prompt(record) for record in self._records], np.int64)
        report(task.name, len(self._records), self.rejected)

    def _usable(self, record: Record) -> float | None:
        """The record's length in seconds; None if it cannot be used."""
        name = record.id
        seconds = 0.0
        try:
            seconds = record.seconds or wav.seconds_of(record.audio)
        except OSError:
            reason = "that cannot be read"
            name = record.audio
        else:
            reason = self._fitting.misfit(seconds, record.prompt_seconds or self._data.prompt_seconds, record.text)
        if reason:
            self.rejected.setdefault(reason, []).append(name)
        return None if reason else seconds

    def _prompt(self, record: Record) -> int:
        return round((record.prompt_seconds or self._data.prompt_seconds) * self._rate)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, including eos."""
        return self._fitting.tokens([record.text for record in self._records])

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


class TextSource(Source):
    """A text file with one text per line, or a folder with texts.txt; examples without audio."""

    text_only = True
    seeded = False

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        path = Path(task.root or data.root)
        path = path / TEXTS if path.is_dir() else path
        if not path.is_file():
            raise UserError(
                f"Task {task.name!r}: root {str(path)!r} is not a file; give a text file with one text per line."
            )
        self.rejected: dict[str, list[str]] = {}
        self._fitting = Fitting(data, features)
        self._lines = []
        for number, line in read_lines(path):
            text = " ".join(line.split())
            reason = self._fitting.text_misfit(text)
            if reason:
                self.rejected.setdefault(reason, []).append(f"{path.name}:{number}")
            else:
                self._lines.append((f"{path.name}:{number}", text))
        self.lengths = self.prompts = np.zeros(len(self._lines), np.int64)
        report(task.name, len(self._lines), self.rejected)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Example:
        name, text = self._lines[i]
        return Example(samples=np.zeros(0, np.int16), prompt_samples=0, text=text, id=name)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, including eos."""
        return self._fitting.tokens([text for _, text in self._lines])


def report(task: str, kept: int, rejected: dict[str, list[str]]) -> None:
    """Log what a source left out. Raises UserError if no example is left."""
    for reason, ids in rejected.items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        log.warning("Task %r: left out %d %s: %s%s", task, len(ids), reason, ", ".join(ids[:NAMED]), more)
    if not kept:
        reasons = "; ".join(f"{len(ids)} {reason}, the first: {ids[0]}" for reason, ids in rejected.items())
        raise UserError(
            f"Task {task!r} has no usable example ({reasons or 'its root is empty'}); correct the data or the limits "
            f"in the data config."
        )


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
