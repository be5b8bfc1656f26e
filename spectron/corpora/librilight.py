"""Libri-Light (arXiv 1912.07875) on disk: {small|medium|large|duplicate}/SPEAKER/BOOK/FILE.flac and FILE.json.

A chapter can last hours, so audio is read in blocks and never as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from spectron.audio import wav
from spectron.audio.finding import by_stem, find_files, recordings_in, warn_passed_over
from spectron.audio.vad import VadConfig, energies, voice_activity
from spectron.config.checks import RULES
from spectron.config.relations import RELATIONS
from spectron.config.rules import FREE, SHARE, at, number
from spectron.corpora.cutting import CuttingConfig, Span, cut, tidy
from spectron.data.measuring import stamp_of
from spectron.data.shards import Utterance, encode_flac
from spectron.types import UserError
from spectron.utils.text_files import read_json

SUBSETS = ("small", "medium", "large", "duplicate")  # arXiv 1912.07875
SAMPLE_RATE = 16_000  # Hz, arXiv 1912.07875
LENGTH_TOLERANCE = 1.0  # ours, seconds: the JSON's length is a multiple of 0.08 and not exact
BLOCK_SECONDS = 60  # ours: length of a block that is read at once
SKIP_SECONDS = 20  # ours: shorter gaps are read and discarded, which costs no more than a seek in FLAC
CHECKED = 4096  # ours: recordings remembered as checked, because a manifest may return to them
Rejected = dict[str, list[str]]  # reason → names of what was left out for it


class Chapter(NamedTuple):
    """One recording."""

    name: str  # unique: the path below the root without suffix, "small/100/sea_fairies_…/01_baum_…"
    path: str
    speaker: str
    book: str
    size: int  # bytes of the FLAC file


class Meta(NamedTuple):
    """The fields of a chapter's JSON file that are used here."""

    seconds: float = 0.0  # 0: not stated
    snr: float = math.nan  # NaN: not stated
    activity: tuple[tuple[float, float], ...] | None = None  # voiced spans in seconds; None: not stated
    title: str = ""


@dataclasses.dataclass(frozen=True)
class SpeakerSplitConfig:
    """Train, dev and test split of the speakers by a hash of their names; all values are ours."""

    dev_share: float = 0.005  # of the speakers
    test_share: float = 0.005
    salt: str = "librilight"


RULES[SpeakerSplitConfig] = {"dev_share": SHARE, "test_share": SHARE, "salt": FREE}


def _shares(config: SpeakerSplitConfig, key: str) -> Iterator[str]:
    """Dev and test leave speakers for train."""
    if config.dev_share + config.test_share >= 1:
        yield (
            f"{at(key, 'dev_share')}={number(config.dev_share)} and test_share={number(config.test_share)} leave no "
            f"speaker for train; lower one of them."
        )


RELATIONS.append((SpeakerSplitConfig, _shares))


def list_chapters(root: str | Path) -> list[Chapter]:
    """All chapters, sorted by name. root: the folder of the subsets, or one subset. Raises UserError."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(
            f"Libri-Light root {str(root)!r} is not a folder; give the folder that contains small/, medium/, …"
        )
    subsets = [root / name for name in SUBSETS if (root / name).is_dir()] or [root] * (root.name in SUBSETS)
    chapters = []
    for subset in subsets:
        found = find_files(subset)
        warn_passed_over(found.unreadable)
        for path in _one_a_stem(found.audio):
            parts = path.relative_to(subset).with_suffix("").parts
            if len(parts) == 3 and path.is_file():
                speaker, book, _ = parts
                name = readable("/".join((subset.name, *parts)))
                chapters.append(Chapter(name, str(path), readable(speaker), readable(book), path.stat().st_size))
    if not chapters:
        raise UserError(
            f"{str(root)!r} contains no chapters; the layout below it must be "
            f"{{{'|'.join(SUBSETS)}}}/SPEAKER/BOOK/FILE.flac."
        )
    return sorted(chapters)


def _one_a_stem(paths: Sequence[Path]) -> list[Path]:
    """Of recordings that differ in their suffix alone, one."""
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    return [path for files in folders.values() for path in by_stem(files).values()]


def recording_at(path: str | Path) -> Path:
    """The recording whose path without suffix is given; PATH.flac if there is none."""
    flac = Path(f"{path}.flac")
    return flac if flac.is_file() else recordings_in(flac.parent).get(Path(path).name, flac)


def readable(name: str) -> str:
    """A file name as valid Unicode: undecodable bytes become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def share_of(name: str, config: SpeakerSplitConfig) -> str:
    """ "train", "dev" or "test", chosen by a hash of the name."""
    digest = hashlib.sha256(f"{config.salt}/{name}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    if fraction < config.test_share:
        return "test"
    return "dev" if fraction < config.test_share + config.dev_share else "train"


def split(
    chapters: Sequence[Chapter], config: SpeakerSplitConfig = SpeakerSplitConfig()
) -> tuple[dict[str, list[Chapter]], dict[str, str]]:
    """Split chapters so that no speaker and no book is in two splits.

    Returns split → chapters, and chapter name → reason for those left out. A hash of the name assigns each speaker to a
    split. A book with several readers belongs to test if one of them does, else to dev, else to train; its chapters by
    speakers of other splits are left out.
    """
    speaker_splits = {speaker: share_of(speaker, config) for speaker in {c.speaker for c in chapters}}
    order = ("train", "dev", "test")
    book_splits: dict[str, str] = {}
    for c in chapters:
        book_splits[c.book] = max(speaker_splits[c.speaker], book_splits.get(c.book, "train"), key=order.index)
    splits: dict[str, list[Chapter]] = {name: [] for name in order}
    left_out = {}
    for c in chapters:
        if book_splits[c.book] == speaker_splits[c.speaker]:
            splits[speaker_splits[c.speaker]].append(c)
        else:
            left_out[c.name] = f"a {speaker_splits[c.speaker]} speaker in a book of {book_splits[c.book]}"
    return splits, left_out


def read_meta(chapter: Chapter) -> tuple[Meta, str]:
    """Read FILE.json: its fields, and a description of what is wrong with it ("" if nothing is).

    Never raises: the audio can be cut without the JSON.
    """
    path = Path(chapter.path).with_suffix(".json")
    try:
        if not path.is_file():
            return Meta(), "without JSON: own voice activity"
        fields = read_json(path)  # accepts a bare NaN
        if not isinstance(fields, dict):
            raise UserError("not an object")
    except UserError:
        return Meta(), "with broken JSON: own voice activity"
    book = fields.get("book_meta")
    title = book.get("title") if isinstance(book, dict) else ""
    activity = _activity(fields.get("voice_activity"))
    meta = Meta(
        seconds=_number(fields.get("file_length_sec"), default=0.0),
        snr=_number(fields.get("snr"), default=math.nan),
        activity=activity,
        title=str(title or ""),
    )
    return meta, "" if activity is not None else "without voice_activity: own"


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return default


def _activity(value: Any) -> tuple[tuple[float, float], ...] | None:
    if not isinstance(value, list):
        return None
    try:
        pairs = tuple((float(on), float(off)) for on, off in value)
    except (TypeError, ValueError, OverflowError):
        return None
    return pairs if all(math.isfinite(on) and math.isfinite(off) for on, off in pairs) else None


class BadChapter(Exception):
    """A chapter or utterance that cannot be used; the message continues "chapters …" or "utterances …"."""


class Recording:
    """An open FLAC file from which spans are read. Close it after use.

    The whole file is decoded once when it is opened, and must have the MD5 that its header states: a decoder finds most
    damage, but not that frames are missing, repeated or another recording's, so that a span would hold foreign sound.
    """

    def __init__(self, path: str, sample_rate: int = SAMPLE_RATE):
        """Raises BadChapter unless the file is undamaged mono audio at `sample_rate` Hz."""
        import soundfile

        try:
            self._file = wav.open_audio(path)
        except (soundfile.SoundFileError, RuntimeError, OSError) as error:
            raise BadChapter("whose audio cannot be read") from error
        self.total = self._file.frames
        self.rate = self._file.samplerate
        self._position: int | None = 0  # where the decoder stands; None: unknown
        reason = ""
        if self._file.channels != 1:
            reason = "not mono"
        elif self.rate != sample_rate:
            reason = f"not at {sample_rate} Hz"
        elif not 0 < self.total < 2**40:  # libsndfile reports 2^63 − 1 if the header has no length
            reason = "without samples"
        else:
            reason = _damage(path, *stamp_of(path))
        if reason:
            self._file.close()
            raise BadChapter(reason)

    def read(self, start: int, end: int) -> Int[np.ndarray, " S"]:
        """Samples start to end as int16 [end − start]. Raises BadChapter if the file is damaged."""
        import soundfile

        try:
            position, self._position = self._position, None  # unknown if reading fails
            if position is None or not 0 <= start - position < SKIP_SECONDS * self.rate:
                self._file.seek(start)
            elif start > position:
                self._file.read(start - position, dtype="int16")
            samples = self._file.read(end - start, dtype="int16")
            self._position = start + len(samples)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise BadChapter("whose audio is damaged") from error
        if len(samples) != end - start:
            raise BadChapter("whose audio breaks off")
        return samples

    def blocks(self) -> Iterator[Int[np.ndarray, " _"]]:
        """The whole recording in blocks of BLOCK_SECONDS. Raises BadChapter if the file is damaged."""
        for start in range(0, self.total, BLOCK_SECONDS * self.rate):
            yield self.read(start, min(self.total, start + BLOCK_SECONDS * self.rate))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@functools.lru_cache(CHECKED)
def _damage(path: str, *stamp: int) -> str:
    """Why the recording of this size and time of change cannot be used; "" if it can."""
    reasons = {"": "", "damaged": "whose audio is damaged", "cut off": "whose audio breaks off"}
    return reasons[wav.damage_of(path)]


def utterances_of(chapter: Chapter, config: CuttingConfig, vad: VadConfig, rejected: Rejected) -> Iterator[Utterance]:
    """Cut a chapter into utterances.

    What is left out or unusual is added to `rejected`; a bad chapter raises nothing.
    """
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
    meta, defect = read_meta(chapter)
    if defect:
        rejected.setdefault(f"note: chapters {defect}", []).append(chapter.name)
    if meta.seconds and not abs(meta.seconds - seconds) <= LENGTH_TOLERANCE:  # `not <=` rejects NaN too
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
