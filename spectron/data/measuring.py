"""Measurements of recordings: length, sample rate, peak, clipping, silence. Read block by block, by several threads."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from spectron.audio import wav
from spectron.audio.containers import SampleDigest
from spectron.types import UserError
from spectron.utils.console import Progress

FRAME_SECONDS = 0.02  # ours: one level is measured per frame
BLOCK_SAMPLES = 1 << 20  # ours: of all channels; bounds the memory of a thread
FULL_SCALE = 0.99  # ours: samples above this are counted as clipped (lossy codecs move clipped samples a little)
PAUSE_DB = 30.0  # ours: a frame so far below the loud frames is silent
LOUD_PERCENTILE = 95  # ours: of the frames' levels, taken as the level of the speech

EMPTY, UNREADABLE, TRUNCATED = "empty", "unreadable", "truncated"  # values of Sound.error
T = TypeVar("T")
R = TypeVar("R")


class Sound(NamedTuple):
    """What was measured of one recording; all but `error` is 0 or "" for a file that cannot be read.

    peak: largest magnitude, 1 is full scale. clipped: share of samples at full scale. level: dBFS (RMS) of its loud
    frames. start, end: seconds of silence there. silent: share of silent frames. digest: a hash of the samples.
    error: "", "empty", "unreadable" or "truncated" (shorter than its header states). FLAC that decodes to other samples
    than were encoded is unreadable.
    """

    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    peak: float = 0.0
    clipped: float = 0.0
    level: float = 0.0
    start: float = 0.0
    end: float = 0.0
    silent: float = 0.0
    digest: str = ""
    error: str = ""


def measure(path: str) -> Sound:
    """Measure a recording. A file that cannot be read has `error` set."""
    import soundfile

    try:
        if not os.path.getsize(path):
            return Sound(error=EMPTY)
        cut_off, share, digest = wav.stated(path)
        with wav.open_audio(path) as file:
            sound = _measure(file, cut_off, share, digest)
        return Sound(error=UNREADABLE) if not sound.error and wav.holds_others(path, digest) else sound
    except (OSError, soundfile.SoundFileError, RuntimeError, ValueError, TypeError):
        return Sound(error=UNREADABLE)


def _measure(file: Any, cut_off: bool, share: float, encoded: SampleDigest) -> Sound:
    rate, channels = file.samplerate, file.channels
    frame = max(1, round(rate * FRAME_SECONDS))
    digest = hashlib.blake2b(digest_size=16)
    powers, peak, clipped, size = [], 0.0, 0, 0
    block = max(1, BLOCK_SAMPLES // channels // frame) * frame
    while len(samples := file.read(block, dtype="float32", always_2d=True)):
        encoded.update(samples)
        magnitudes = np.abs(samples)
        loudest = float(magnitudes.max())
        if not np.isfinite(loudest):
            return Sound(error=UNREADABLE)
        peak = max(peak, loudest)
        clipped += int((magnitudes >= FULL_SCALE).sum())
        size += len(samples)
        mono = samples.mean(axis=1)
        digest.update((np.clip(mono, -1, 1) * 32767).astype(np.int16).tobytes())
        whole = len(mono) // frame * frame or len(mono)
        powers.append((mono[:whole].reshape(-1, min(frame, whole)) ** 2).mean(axis=1))
    if not size:
        return Sound(error=EMPTY)
    levels = 10 * np.log10(np.concatenate(powers) + 1e-12)
    level = float(np.percentile(levels, LOUD_PERCENTILE))
    loud = np.flatnonzero(levels > level - PAUSE_DB)
    return Sound(
        seconds=round(size / rate, 4),
        sample_rate=rate,
        channels=channels,
        peak=round(peak, 5),
        clipped=round(clipped / (size * channels), 6),
        level=round(level, 1),
        start=round(int(loud[0]) * FRAME_SECONDS, 2),
        end=round((len(levels) - 1 - int(loud[-1])) * FRAME_SECONDS, 2),
        silent=round(1 - len(loud) / len(levels), 3),
        digest=digest.hexdigest(),
        error=TRUNCATED if cut_off or size < share * file.frames else "",
    )


def measure_all(paths: Sequence[str], cache: Path | None = None) -> list[Sound]:
    """Measure recordings in several threads, with a progress bar.

    cache: a file of measurements made before, by path, size and time of change; new ones are appended as they are made,
    so that an interrupted run goes on.
    """
    stored = Store(cache, lambda values: Sound(*values))
    stamps = {path: stamp_of(path) for path in dict.fromkeys(paths)}
    missing = [path for path, stamp in stamps.items() if stored.get(path, stamp) is None]
    for path, sound in in_threads(measure, missing, "measuring"):
        stored.add(path, stamps[path], sound)
    stored.close()
    return [stored.values[path][1] for path in paths]


class Store:
    """Results by path in a JSONL file; a result belongs to one version of a file, its stamp. path None: in memory."""

    def __init__(self, path: Path | None, make: Callable[[Any], Any]):
        self.values: dict[str, tuple[Any, Any]] = {}
        self._file = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_text(encoding="utf-8") if path.is_file() else ""
            for line in content.split("\n"):
                try:
                    name, stamp, value = json.loads(line)
                    self.values[name] = stamp, make(value)
                except (ValueError, TypeError):
                    continue  # the last line of a killed run, or of another version: measure again
            self._file = path.open("a", encoding="utf-8")
            self._file.write("" if content.endswith("\n") or not content else "\n")  # ends a killed run's half line
        except OSError as error:
            raise UserError(f"Cannot write {str(path)!r} ({error.strerror}); choose another --out.") from error

    def get(self, path: str, stamp: Any) -> Any:
        """The result for this version of the file; None if there is none."""
        known = self.values.get(path)
        return known[1] if known and known[0] == stamp else None

    def add(self, path: str, stamp: Any, value: Any) -> None:
        """Keep a result."""
        self.values[path] = stamp, value
        if self._file:
            self._file.write(json.dumps([path, stamp, value]) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def stamp_of(path: str) -> list[int]:
    """Size and time of change of a file: they tell its versions apart."""
    try:
        status = os.stat(path)
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def in_threads(work: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[tuple[T, R]]:
    """(item, work(item)) in order, computed by one thread per core. label: of a progress bar; "" shows none."""
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        pairs = zip(items, pool.map(work, items), strict=True)
        yield from progress(pairs, len(items), label) if label else pairs
    finally:
        pool.shutdown(cancel_futures=True)


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """The same items with a progress bar on stderr, or a line now and then if it is not a terminal."""
    with Progress(total, label, "file", leave=False) as bar:
        for item in items:
            yield item
            bar.advance()
