"""Single spoken digits, loaded once: decoded, resampled, levelled, in several speeds, and cached on disk.

Two origins: Free Spoken Digits (real voices) and espeak (synthesised, nothing to download).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from spectron.audio.signal import to_int16
from spectron.config import DataConfig, FeatureConfig
from spectron.data.counting.raw_clips import RawClip, espeak_clips, fsdd_clips, read_espeak_clips, read_fsdd_clips
from spectron.types import UserError
from spectron.utils.environment import cache_folder, load_librosa
from spectron.utils.files import write_folder

log = logging.getLogger(__name__)

SPEEDS = (1.0, 0.9, 0.95, 1.05, 1.1)  # ours: ±10 % by resampling; the first is the clip itself
# Where clips are played at all speeds. espeak reads at several rates and pitches instead.
VARIED = {("fsdd", "train"), ("espeak", "judge")}
QUIET_DB = 35.0  # ours: the start and end of a clip that lie so far below its loudest moment are cut off
LEVEL_RMS = 0.06  # ours: every clip is brought to this root mean square of full scale (-24 dBFS)
PEAK = 0.7  # ours: and stays below this, so that a gain of +3 dB never clips
CACHE_VERSION = 6


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips of one split: clip c at speed v is samples[starts[v, c]:starts[v, c] + lengths[v, c]]."""

    samples: np.ndarray  # int16 [total], memory-mapped
    starts: np.ndarray  # int64 [V, C]
    lengths: np.ndarray  # int64 [V, C]
    digits: np.ndarray  # int64 [C]
    speaker_of: np.ndarray  # int64 [C]
    take_of: np.ndarray  # int64 [C], −1: see RawClip
    names: tuple[str, ...]  # [C]
    speakers: tuple[str, ...]

    def get(self, clip: int, speed: int = 0) -> np.ndarray:
        """int16 [S]: one clip."""
        start = self.starts[speed, clip]
        return self.samples[start : start + self.lengths[speed, clip]]

    @functools.cached_property
    def takes_of_speakers(self) -> list[list[np.ndarray]]:
        """[speaker][take] → the ten clips of that take, by digit; empty for clips recorded one by one."""
        takes = [
            np.unique(self.take_of[(self.speaker_of == s) & (self.take_of >= 0)]) for s in range(len(self.speakers))
        ]
        by_digit = np.argsort(self.digits, kind="stable")
        return [[by_digit[self.take_of[by_digit] == take] for take in each] for each in takes]

    @functools.cached_property
    def by_speaker_and_digit(self) -> list[list[np.ndarray]]:
        """[speaker][digit] → the clips' numbers. Raises UserError when a speaker lacks a digit."""
        table = []
        for s, speaker in enumerate(self.speakers):
            row = [np.flatnonzero((self.speaker_of == s) & (self.digits == d)) for d in range(10)]
            missing = [d for d in range(10) if not len(row[d])]
            if missing:
                raise UserError(
                    f"The digit clips of speaker {speaker!r} lack the digit {missing[0]}; complete data.root."
                )
            table.append(row)
        return table


def load_clips(data: DataConfig, features: FeatureConfig, split: str, root: str = "") -> Clips:
    """The clips of a split. "judge": what judges are trained on, of recordings the same as "train".

    Raises UserError for a bad data.root.
    """
    if split not in ("train", "judge", "test"):
        raise UserError(
            f"The counting world has the splits 'train' and 'test', not {split!r}; change the task's split."
        )
    if data.clips == "fsdd":
        return _load("fsdd", root or data.root, features.sample_rate, "train" if split == "judge" else split)
    return _load("espeak", "", features.sample_rate, split)


@functools.lru_cache(maxsize=8)
def _load(origin: str, root: str, rate: int, split: str) -> Clips:
    if origin == "fsdd":
        raw, read = fsdd_clips(root, split), read_fsdd_clips
    else:
        raw, read = espeak_clips(split), read_espeak_clips
    speeds = SPEEDS if (origin, split) in VARIED else SPEEDS[:1]
    digest = hashlib.sha256(repr((CACHE_VERSION, origin, rate, speeds, QUIET_DB, LEVEL_RMS, PEAK)).encode())
    for clip in raw:
        digest.update(f"{clip.name} {clip.digit} {clip.speaker}".encode() + clip.checksum)
    folder = cache_folder() / f"clips-{origin}-{split}-{digest.hexdigest()[:20]}"
    if (cached := _cached(folder)) is not None:
        return cached
    samples, index = _prepare(raw, read, rate, speeds)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        write_folder(folder, lambda at: _write(at, samples, index))
    except OSError as error:  # with a full disk or a read-only home the clips are prepared again next time
        log.warning("The prepared digit clips are not cached in %s: %s.", folder, error)
    return _clips(samples, index)


def _cached(folder: Path) -> Clips | None:
    """The clips that were prepared before; None if they were not, or a file is damaged."""
    try:
        # Viewed as a plain array: the memmap class makes every small slice slow.
        samples = np.load(folder / "samples.npy", mmap_mode="r").view(np.ndarray)
        clips = _clips(samples, json.loads((folder / "index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return clips if clips.lengths.sum() == len(samples) else None


def _write(folder: Path, samples: np.ndarray, index: dict) -> None:
    np.save(folder / "samples.npy", samples)
    (folder / "index.json").write_text(json.dumps(index))


def _clips(samples: np.ndarray, index: dict) -> Clips:
    speakers = tuple(sorted(set(index["speakers"])))
    lengths = np.asarray(index["lengths"], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths.ravel())[:-1]]).reshape(lengths.shape)
    speaker_of = np.asarray([speakers.index(s) for s in index["speakers"]])
    return Clips(
        samples,
        starts,
        lengths,
        np.asarray(index["digits"]),
        speaker_of,
        np.asarray(index["takes"]),
        tuple(index["names"]),
        speakers,
    )


def _prepare(
    raw: Sequence[RawClip],
    read: Callable[[Sequence[RawClip], int], list[np.ndarray]],
    rate: int,
    speeds: Sequence[float],
) -> tuple[np.ndarray, dict]:
    from spectron.audio import wav

    log.info("Preparing %d digit clips (done once, then cached).", len(raw))
    levelled = [level(trim(samples, rate), clip.name) for samples, clip in zip(read(raw, rate), raw, strict=True)]
    parts: list[np.ndarray] = []
    for speed in speeds:
        # Played `speed` times faster: the clip is taken as recorded at a higher rate.
        parts += [wav.resample(samples, round(rate * speed), rate) for samples in levelled]
    lengths = np.asarray([len(p) for p in parts]).reshape(len(speeds), len(raw))
    joined = np.concatenate([to_int16(p) for p in parts])
    index = {
        "lengths": lengths.tolist(),
        "digits": [c.digit for c in raw],
        "speakers": [c.speaker for c in raw],
        "takes": [c.take for c in raw],
        "names": [c.name for c in raw],
    }
    return joined, index


def trim(samples: np.ndarray, rate: int) -> np.ndarray:
    """int16 [S] → int16 [≤ S] without the quiet at both ends.

    The quiet between clips is the counting world's own. One speaker's clips have up to 0.7 s of it at their ends, and a
    model that learns such pauses does not always find its way out of them.
    """
    librosa = load_librosa()

    if not samples.any():
        return samples  # level says what is wrong with it
    frame, hop = round(0.025 * rate), round(0.00625 * rate)
    _, (first, last) = librosa.effects.trim(
        samples.astype(np.float32), top_db=QUIET_DB, frame_length=frame, hop_length=hop
    )
    return samples[first:last]


def level(samples: np.ndarray, name: str) -> np.ndarray:
    """int16 [S] → float32 [S] in [-1, 1] at LEVEL_RMS, or lower if PEAK would be passed. UserError for silence."""
    x = samples.astype(np.float32) / 32768
    rms = float(np.sqrt(np.mean(x**2))) if len(x) else 0.0
    if rms < 1e-4:
        raise UserError(f"Digit clip {name!r} is silent or empty; replace or remove it.")
    return x * min(LEVEL_RMS / rms, PEAK / float(np.abs(x).max()))
