"""Where the counting world's single digits come from: Free Spoken Digits (real voices), or espeak NG (synthesised)."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.audio import wav
from spectron.audio.espeak import Reading, synthesise_all
from spectron.audio.finding import recordings_in
from spectron.types import UserError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEST_INDICES = range(5)  # Free Spoken Digits README: recordings 0-4 are the test split
# Ours: two men, a boy and a woman. A model this small learns voices that people tell apart at once; of voices
# whose pitches and vocal tracts overlap it learns two, and speaks all others with those.
VOICES = ("en-us+ian", "en-us+travis", "en-us+shelby", "en-us+linda")  # the speaker is what follows the +
# Ours: words a minute; pitch, 0 to 99, of which 50 is the voice's own. The judges hear more than the model learns, so
# that they recognise what it says less than perfectly. No rate and no pitch of the test occurs elsewhere.
RATES_AND_PITCHES = {
    "train": ((190, 200, 210), (46, 50, 54)),
    "judge": ((170, 180, 190, 200, 210, 220, 230), (42, 46, 50, 54, 58)),
    "test": ((195, 205), (48, 52)),
}
ESPEAK_VERSION = 2


@dataclasses.dataclass(frozen=True)
class RawClip:
    """Where one clip comes from.

    key: what its reader needs. checksum: of all that decides its samples. take: the number of the reading in which the
    speaker spoke it, with all other digits; −1: clips were recorded one by one.
    """

    key: Any
    digit: int
    speaker: str
    name: str
    checksum: bytes
    take: int = -1


def read_fsdd_clips(raw: Sequence[RawClip], rate: int) -> list[np.ndarray]:
    """int16 [S] of each clip."""
    return [wav.read(clip.key, rate) for clip in raw]


def fsdd_clips(root: str, split: str) -> list[RawClip]:
    """The recordings of Free Spoken Digits below `root` in the official split. Raises UserError when there are none."""
    if not root:
        raise UserError("data.root is not set; give the folder of the Free Spoken Digit Dataset (--set data.root=DIR).")
    folder = next(
        (f for f in (Path(root), Path(root) / "fsdd") if (f / "recordings").is_dir()),
        None,
    )
    if folder is None:
        raise UserError(
            f"data.root {root!r} holds no folder 'recordings' of the Free Spoken Digit Dataset; point it there."
        )
    clips = []
    for path in sorted(recordings_in(folder / "recordings").values()):
        parts = path.stem.split("_")
        if len(parts) != 3 or not (parts[0].isdigit() and parts[2].isdigit()):
            continue
        digit, speaker, index = int(parts[0]), parts[1], int(parts[2])
        if digit < 10 and (index in TEST_INDICES) == (split == "test"):
            clips.append(
                RawClip(
                    path,
                    digit,
                    speaker,
                    path.stem,
                    hashlib.sha256(path.read_bytes()).digest(),
                )
            )
    if not clips:
        raise UserError(f"{str(folder / 'recordings')!r} has no DIGIT_SPEAKER_INDEX.wav of the {split} split.")
    return clips


def espeak_clips(split: str) -> list[RawClip]:
    """The ten digits in every voice, a take at each of the split's rates and pitches."""
    rates, pitches = RATES_AND_PITCHES[split]
    clips = []
    for take, (voice, rate, pitch) in enumerate(itertools.product(VOICES, rates, pitches)):
        reading = Reading(WORDS, voice, rate, pitch)
        checksum = hashlib.sha256(f"{ESPEAK_VERSION} {tuple(reading)}".encode()).digest()
        speaker = voice.partition("+")[2]
        clips += [RawClip(reading, d, speaker, f"{d}_{speaker}_{rate}_{pitch}", checksum, take) for d in range(10)]
    return clips


def read_espeak_clips(raw: Sequence[RawClip], rate: int) -> list[np.ndarray]:
    """int16 [S] of each clip."""
    readings = list(dict.fromkeys(clip.key for clip in raw))
    spoken = dict(zip(readings, synthesise_all(readings, rate), strict=True))
    return [spoken[clip.key][clip.digit] for clip in raw]
