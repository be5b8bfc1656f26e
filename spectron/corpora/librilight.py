"""Libri-Light as it lies on disk: {small|medium|large|duplicate}/SPEAKER/BOOK/FILE.flac with FILE.json beside it.

PAPER §5 has the layout. Chapters last hours: nothing here holds more of one than a block.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from spectron.audio.vad import VadConfig, energies, voice_activity
from spectron.corpora.cutting import CuttingConfig, Span, cut, tidy
from spectron.data.shards import Utterance, encode_flac
from spectron.types import UserError

SUBSETS = ("small", "medium", "large", "duplicate")  # PAPER §5
SAMPLE_RATE = 16_000  # PAPER §5
LENGTH_TOLERANCE = 1.0  # ours, seconds: the stated length is a multiple of 0.08 and not exact
BLOCK_SECONDS = 60  # ours: read at once
SKIP_SECONDS = 20  # ours: what lies so near ahead is reached by reading; to seek in FLAC costs about as much
Rejected = dict[str, list[str]]  # reason → names


class Chapter(NamedTuple):
    """One recording. name: its path without suffix, "small/100/sea_fairies_…/01_baum_…", unique."""

    name: str
    path: str
    speaker: str
    book: str
    size: int  # bytes of the FLAC


class Meta(NamedTuple):
    """What the JSON says. snr NaN and activity None: not known. seconds 0: not stated."""

    seconds: float = 0.0
    snr: float = math.nan
    activity: tuple[tuple[float, float], ...] | None = None
    title: str = ""


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Shares of the speakers and of the books by a hash of their names; ours."""

    dev_share: float = 0.005
    test_share: float = 0.005
    salt: str = "librilight"


def list_chapters(root: str | Path) -> list[Chapter]:
    """All chapters below a root that holds the subsets' folders (or is one), sorted by name. Raises UserError."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"Libri-Light root {str(root)!r} is not a folder; give the one that holds small/, medium/, ….")
    subsets = [root / name for name in SUBSETS if (root / name).is_dir()] or [root] * (root.name in SUBSETS)
    chapters = []
    for subset in subsets:
        for speaker in _folders(subset):
            for book in _folders(speaker.path):
                with os.scandir(book.path) as files:
                    chapters += [
                        Chapter(
                            readable(f"{subset.name}/{speaker.name}/{book.name}/{file.name.removesuffix('.flac')}"),
                            file.path,
                            readable(speaker.name),
                            readable(book.name),
                            file.stat().st_size,
                        )
                        for file in files
                        if file.name.endswith(".flac") and file.is_file()
                    ]
    if not chapters:
        raise UserError(
            f"{str(root)!r} holds no chapters; Libri-Light is {{{'|'.join(SUBSETS)}}}/SPEAKER/BOOK/FILE.flac below it."
        )
    return sorted(chapters)


def _folders(path: str | Path) -> list[os.DirEntry]:
    with os.scandir(path) as entries:
        return [entry for entry in entries if entry.is_dir()]


def readable(name: str) -> str:
    """A file's name as text that can be written anywhere."""
    return os.fsencode(name).decode("utf-8", "replace")


def share_of(name: str, config: SplitConfig) -> str:
    """ "train", "dev" or "test", by a hash of a name."""
    digest = hashlib.sha256(f"{config.salt}/{name}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < config.test_share:
        return "test"
    return "dev" if place < config.test_share + config.dev_share else "train"


def split(
    chapters: Sequence[Chapter], config: SplitConfig = SplitConfig()
) -> tuple[dict[str, list[Chapter]], dict[str, str]]:
    """Chapters by split, no speaker and no book in two of them; and name → why, for those left out.

    Speakers are shared out by the hash of their names. A book that several of them read together goes to the smallest
    of its speakers' splits (test before dev before train); its chapters by other speakers are left out.
    """
    of_speaker = {speaker: share_of(speaker, config) for speaker in {c.speaker for c in chapters}}
    order = ("train", "dev", "test")
    of_book: dict[str, str] = {}
    for c in chapters:
        of_book[c.book] = max(of_speaker[c.speaker], of_book.get(c.book, "train"), key=order.index)
    splits: dict[str, list[Chapter]] = {name: [] for name in order}
    left_out = {}
    for c in chapters:
        if of_book[c.book] == of_speaker[c.speaker]:
            splits[of_speaker[c.speaker]].append(c)
        else:
            left_out[c.name] = f"a {of_speaker[c.speaker]} speaker in a book of {of_book[c.book]}"
    return splits, left_out


def read_meta(chapter: Chapter) -> tuple[Meta, str]:
    """What FILE.json says, and what is wrong with it ("" for nothing). Never raises: the recording alone will do."""
    path = Path(chapter.path).with_suffix(".json")
    try:
        stated = json.loads(path.read_text(encoding="utf-8", errors="replace"))  # takes a bare NaN
        if not isinstance(stated, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return Meta(), "without JSON: own voice activity"
    except (OSError, ValueError, RecursionError):
        return Meta(), "with broken JSON: own voice activity"
    book = stated.get("book_meta")
    title = book.get("title") if isinstance(book, dict) else ""
    activity = _activity(stated.get("voice_activity"))
    return (
        Meta(
            _number(stated.get("file_length_sec"), 0.0),
            _number(stated.get("snr"), math.nan),
            activity,
            str(title or ""),
        ),
        "" if activity is not None else "without voice_activity: own",
    )


def _number(value: Any, otherwise: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return otherwise


def _activity(value: Any) -> tuple[tuple[float, float], ...] | None:
    if not isinstance(value, list):
        return None
    try:
        pairs = tuple((float(on), float(off)) for on, off in value)
    except (TypeError, ValueError):
        return None
    return pairs if all(math.isfinite(on) and math.isfinite(off) for on, off in pairs) else None


class BadChapter(Exception):
    """A chapter that cannot be used; the message is the reason."""


class Recording:
    """A chapter's FLAC, open: spans of it are read without the rest. Close it after use."""

    def __init__(self, path: str, sample_rate: int = SAMPLE_RATE):
        """Raises BadChapter for what is no mono FLAC at that rate."""
        import soundfile

        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise BadChapter("whose audio cannot be read") from error
        self.total, self.rate, self._at = self._file.frames, self._file.samplerate, 0
        reason = ""
        if self._file.channels != 1:
            reason = "not mono"
        elif self.rate != sample_rate:
            reason = f"not at {sample_rate} Hz"
        elif not 0 < self.total < 2**40:  # libsndfile says 2^63 − 1 where the header is silent
            reason = "without samples"
        if reason:
            self._file.close()
            raise BadChapter(reason)

    def read(self, start: int, end: int) -> Int[np.ndarray, " S"]:
        """int16 [end − start]. Raises BadChapter where the file is damaged."""
        import soundfile

        try:
            if not 0 <= start - self._at < SKIP_SECONDS * self.rate:
                self._file.seek(start)
            elif start > self._at:
                self._file.read(start - self._at, dtype="int16")
            self._at = -1  # unknown, should the read fail
            samples = self._file.read(end - start, dtype="int16")
            self._at = start + len(samples)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadChapter("whose audio is damaged") from error
        if len(samples) != end - start:
            raise BadChapter("whose audio breaks off")
        return samples

    def blocks(self) -> Iterator[Int[np.ndarray, " _"]]:
        """All of it, a minute at a time. Raises BadChapter where the file is damaged."""
        for start in range(0, self.total, BLOCK_SECONDS * self.rate):
            yield self.read(start, min(self.total, start + BLOCK_SECONDS * self.rate))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def utterances_of(chapter: Chapter, config: CuttingConfig, vad: VadConfig, rejected: Rejected) -> Iterator[Utterance]:
    """A chapter cut up. What is left out of it, or odd about it, is noted in `rejected`; nothing is fatal."""
    try:
        recording = Recording(chapter.path)
    except BadChapter as error:
        rejected.setdefault(f"chapters {error}", []).append(chapter.name)
        return
    try:
        spans = _spans(chapter, recording, config, vad, rejected)
        for span in spans:
            name = f"{chapter.name}@{span.start}"
            seconds = span.samples / recording.rate
            if seconds < config.min_seconds:
                rejected.setdefault("utterances shorter than min_seconds", []).append(name)
                continue
            try:
                samples = np.concatenate([recording.read(*piece) for piece in span.pieces])
            except BadChapter as error:
                rejected.setdefault(f"utterances {error}", []).append(name)
                continue
            yield Utterance(
                id=name,
                speaker=chapter.speaker,
                book=chapter.book,
                audio=encode_flac(samples, recording.rate),
                sample_rate=recording.rate,
                num_samples=len(samples),
                start=span.start / recording.rate,
                recording=chapter.name,
            )
    except BadChapter as error:
        rejected.setdefault(f"chapters {error}", []).append(chapter.name)
    finally:
        recording.close()


def _spans(
    chapter: Chapter, recording: Recording, config: CuttingConfig, vad: VadConfig, rejected: Rejected
) -> list[Span]:
    seconds = recording.total / recording.rate
    if seconds < config.min_seconds:
        raise BadChapter("shorter than min_seconds")
    meta, odd = read_meta(chapter)
    if odd:
        rejected.setdefault(f"note: chapters {odd}", []).append(chapter.name)
    if meta.seconds and not abs(meta.seconds - seconds) <= LENGTH_TOLERANCE:  # NaN is wrong, too
        raise BadChapter("whose JSON states another length")
    activity = meta.activity
    if activity is None:
        activity = tuple(voice_activity(energies(recording.blocks(), recording.rate), vad))
    elif any(off > seconds + LENGTH_TOLERANCE for _, off in activity):
        rejected.setdefault("note: chapters with voice_activity beyond the end: clipped", []).append(chapter.name)
    voiced = tidy(activity, recording.rate, recording.total)
    if not voiced:
        raise BadChapter("without voice")

    def loudness(start: int, end: int) -> np.ndarray:
        return energies([recording.read(start, end)], recording.rate)

    return cut(voiced, recording.total, recording.rate, config, loudness)
