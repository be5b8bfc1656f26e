"""Recorded corpora: manifests (JSONL or TSV), the layouts of LibriSpeech and LJSpeech, and plain text."""

from __future__ import annotations

import csv
import functools
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import BadExample, Source
from spectron.data.vocabulary import encode_target, make_vocabulary
from spectron.types import Example, UserError

log = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".flac", ".opus", ".ogg", ".wav", ".mp3")
NAMED = 5  # ours: how many of the left-out are named in the log; all stand in `rejected`


class Record(NamedTuple):
    """One utterance before reading. seconds 0: not known yet. prompt_seconds 0: data.prompt_seconds.

    word_ends: when each word of the text is over, in seconds; () where nobody knows.
    """

    id: str
    audio: str
    text: str
    speaker: str = ""
    seconds: float = 0.0
    prompt_seconds: float = 0.0
    word_ends: tuple[float, ...] = ()  # seconds


SPARE_TOKENS = 2  # eos, and the space that SentencePiece puts first: no text has more tokens than bytes and these


class Fitting:
    """What a batch and the task can hold: decides which utterances are left out, and why."""

    def __init__(self, data: DataConfig, features: FeatureConfig):
        self._data, self._rate = data, features.sample_rate
        self._vocabulary = make_vocabulary(data.vocabulary)

    def misfit(self, seconds: float, prompt: float, text: str) -> str:
        """Why an utterance cannot be used; "" when it can."""
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
        """Why a text cannot be used; "" when it can."""
        if not text:
            return "without text"
        if len(text.encode()) + SPARE_TOKENS <= self._data.max_tokens:
            return ""
        return "more tokens than max_tokens" if self.tokens([text])[0] > self._data.max_tokens else ""

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included."""
        return np.asarray([len(encode_target(self._vocabulary, text)[0]) for text in texts], np.int64)


class RecordingSource(Source):
    """Recordings listed with their texts; what cannot fit is left out when the source is made, and counted."""

    reads_files = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        self.rejected: dict[str, list[str]] = {}
        self._name, self._data, self._rate = task.name, data, features.sample_rate
        self._fitting = Fitting(data, features)
        layout = {"manifest": _manifest, "librispeech": _librispeech, "ljspeech": _ljspeech}[task.source]
        listed = layout(task, task.root or data.root, self.rejected)
        usable = [(record, seconds) for record in listed if (seconds := self._usable(record)) is not None]
        self._records = [record for record, _ in usable]
        self.lengths = np.asarray([round(seconds * self._rate) for _, seconds in usable], np.int64)
        self.prompts = np.asarray([self._prompt(record) for record in self._records], np.int64)
        report(task.name, len(self._records), self.rejected)

    def _usable(self, record: Record) -> float | None:
        """Its seconds; None if it cannot be used."""
        name, seconds = record.id, 0.0
        try:
            seconds = record.seconds or duration(record.audio)
        except OSError:
            reason, name = "that cannot be read", record.audio
        else:
            reason = self._fitting.misfit(seconds, record.prompt_seconds or self._data.prompt_seconds, record.text)
        if reason:
            self.rejected.setdefault(reason, []).append(name)
        return None if reason else seconds

    def _prompt(self, record: Record) -> int:
        return round((record.prompt_seconds or self._data.prompt_seconds) * self._rate)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included."""
        return self._fitting.tokens([record.text for record in self._records])

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Example:
        from spectron.audio import wav

        record = self._records[i]
        prompt_seconds = record.prompt_seconds or self._data.prompt_seconds
        try:
            samples = wav.read(record.audio, self._rate)
        except UserError as error:
            raise BadExample(f"{record.id!r}: {error}") from error
        # Manifests round their durations; the recording decides.
        reason = self._fitting.misfit(len(samples) / self._rate, prompt_seconds, record.text)
        if reason:
            raise BadExample(f"{record.id!r}: Audio file {record.audio!r} is {reason}.")
        if not samples.any():
            raise BadExample(f"{record.id!r}: Audio file {record.audio!r} is silent.")
        return Example(
            samples,
            self._prompt(record),
            record.text,
            record.id,
            record.speaker,
            word_ends=tuple(round(end * self._rate) for end in record.word_ends),
        )


class TextSource(Source):
    """One text a line."""

    text_only = True

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        path = Path(task.root or data.root)
        if not path.is_file():
            raise UserError(
                f"Task {task.name!r}: root {str(path)!r} is no file; give a text file with one text a line."
            )
        self.rejected: dict[str, list[str]] = {}
        fitting = Fitting(data, features)
        self._lines = []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            text = " ".join(line.split())
            reason = fitting.text_misfit(text)
            if reason:
                self.rejected.setdefault(reason, []).append(f"{path.name}:{number}")
            else:
                self._lines.append((f"{path.name}:{number}", text))
        self.lengths = self.prompts = np.zeros(len(self._lines), np.int64)
        self._fitting = fitting
        report(task.name, len(self._lines), self.rejected)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, i: int) -> Example:
        name, text = self._lines[i]
        return Example(np.zeros(0, np.int16), 0, text, name)

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """int64 [N]: tokens of each text, eos included."""
        return self._fitting.tokens([text for _, text in self._lines])


def report(task: str, kept: int, rejected: dict[str, list[str]]) -> None:
    """Log what a source left out. Raises UserError when nothing is left."""
    for reason, ids in rejected.items():
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        log.warning(
            "Task %r: left out %d %s: %s%s",
            task,
            len(ids),
            reason,
            ", ".join(ids[:NAMED]),
            more,
        )
    if not kept:
        why = (
            "; ".join(f"{len(ids)} {reason}, the first: {ids[0]}" for reason, ids in rejected.items())
            or "its root is empty"
        )
        raise UserError(
            f"Task {task!r} has no usable example ({why}); correct the data or the limits in the data config."
        )


def duration(path: str) -> float:
    """Seconds of a recording from its header. Raises OSError when it cannot be read."""
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise OSError(str(error)) from error


def _manifest(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    path = Path(root)
    if path.is_dir():
        path = next(
            (path / name for name in ("manifest.jsonl", "manifest.tsv") if (path / name).is_file()),
            path,
        )
    if not path.is_file():
        raise UserError(
            f"Task {task.name!r}: root {root!r} is no manifest; give a .jsonl or .tsv file, or a folder holding one."
        )
    rows = _tsv_rows(path) if path.suffix == ".tsv" else _jsonl_rows(path)
    for number, row in rows:
        if row is not None and row.get("split", task.split) != task.split:
            continue
        try:
            if row is None:
                raise ValueError("broken line")
            yield _record(path, number, row)
        except (KeyError, TypeError, ValueError):
            rejected.setdefault("lines that are broken", []).append(f"{path}:{number}")


def _record(path: Path, number: int, row: dict[str, Any]) -> Record:
    audio, text = row["audio"], row["text"]
    if not (isinstance(audio, str) and audio and isinstance(text, str)):
        raise ValueError("audio and text must be strings")
    stated = row.get("word_ends") or ()
    word_ends = tuple(float(end) for end in (stated.split() if isinstance(stated, str) else stated))
    if word_ends and (len(word_ends) != len(text.split()) or list(word_ends) != sorted(word_ends) or word_ends[0] <= 0):
        raise ValueError("word_ends must be one time per word, rising from above 0")
    return Record(
        id=str(row.get("id") or f"{path.name}:{number}"),
        audio=str(path.parent / audio),
        text=" ".join(text.split()),
        speaker=str(row.get("speaker") or ""),
        seconds=float(row.get("duration") or 0),
        prompt_seconds=float(row.get("prompt_seconds") or 0),
        word_ends=word_ends,
    )


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield number, row if isinstance(row, dict) else None


def _tsv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open(encoding="utf-8", errors="replace", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = next(reader, [])
        if not {"audio", "text"} <= set(names):
            raise UserError(
                f"Manifest {str(path)!r} has no columns 'audio' and 'text' in its first line; add that header."
            )
        for cells in reader:
            if cells:
                yield (
                    reader.line_num,
                    dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None,
                )


def _librispeech(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    folder = next(
        (f for f in (Path(root) / task.split, Path(root) / "LibriSpeech" / task.split) if f.is_dir()),
        None,
    )
    if not root or folder is None:
        raise UserError(
            f"Task {task.name!r}: no folder {task.split!r} below {root!r}; set its root and split (dev-clean, …)."
        )
    for transcripts in sorted(folder.rglob("*.trans.txt")):
        present = {path.stem: path for path in transcripts.parent.iterdir() if path.suffix in AUDIO_SUFFIXES}
        for number, line in enumerate(transcripts.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            name, _, text = line.strip().partition(" ")
            if not name or not text:
                rejected.setdefault("lines that are broken", []).append(f"{transcripts}:{number}")
            elif name not in present:
                rejected.setdefault("without a recording", []).append(f"{name} ({transcripts.parent})")
            else:
                yield Record(name, str(present[name]), " ".join(text.split()), name.split("-")[0])


def _ljspeech(task: TaskConfig, root: str, rejected: dict[str, list[str]]) -> Iterator[Record]:
    """metadata.csv (id|text|normalised text, no quoting) beside wavs/, or a folder of the same in another format."""
    folders = [Path(root), Path(root) / "LJSpeech-1.1"]
    folder = next((f for f in folders if (f / "metadata.csv").is_file()), None)
    if not root or folder is None:
        raise UserError(f"Task {task.name!r}: there is no metadata.csv in {root!r}; give the folder of LJSpeech-1.1.")
    present = {p.stem: p for p in sorted(folder.glob("*/*")) if p.suffix in AUDIO_SUFFIXES}
    path = folder / "metadata.csv"
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name, *texts = line.split("|")
        text = " ".join((texts[-1] or texts[0]).split()) if 1 <= len(texts) <= 2 else ""
        if not name or not text:
            rejected.setdefault("lines that are broken", []).append(f"{path}:{number}")
        elif name not in present:
            rejected.setdefault("without a recording", []).append(f"{name} ({folder})")
        else:
            yield Record(name, str(present[name]), text, "LJ")
