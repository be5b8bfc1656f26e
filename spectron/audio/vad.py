"""Energy-based voice activity detection in steps of 80 ms: adaptive noise floor and hysteresis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from spectron.config.checks import RULES, SECONDS
from spectron.config.relations import RELATIONS
from spectron.config.rules import at, number, real

STEP_SECONDS = 0.08  # the step of Libri-Light's voice activity (arXiv 1912.07875)
_FLOOR_DB = -80.0  # ours: level of digital silence, dBFS


@dataclasses.dataclass(frozen=True)
class VadConfig:
    """Thresholds of the detector. All values are ours, tuned on LibriSpeech chapters."""

    on_db: float = 12.0  # speech starts at this level above the noise floor
    off_db: float = 7.0  # speech ends below this level above the noise floor
    floor_seconds: float = 30.0  # window of the noise floor
    floor_percentile: float = 10.0  # of the levels in that window
    headroom_db: float = 28.0  # the noise floor is at least this far below the recording's loud parts
    range_db: float = 12.0  # a recording with a smaller dynamic range contains no speech
    min_pause_seconds: float = 0.32  # shorter pauses count as speech
    min_voice_seconds: float = 0.24  # shorter sounds count as silence


RULES[VadConfig] = {
    "on_db": real(0.0, 200.0),
    "off_db": real(0.0, 200.0),
    "floor_seconds": SECONDS,
    "floor_percentile": real(0.0, 100.0),
    "headroom_db": real(0.0, 200.0),
    "range_db": real(0.0, 200.0),
    "min_pause_seconds": real(0.0),
    "min_voice_seconds": real(0.0),
}


def _hysteresis(config: VadConfig, key: str) -> Iterator[str]:
    """Speech does not end at a level at which it starts."""
    if config.off_db > config.on_db:
        yield (
            f"{at(key, 'off_db')}={number(config.off_db)} must be at most on_db; the nearest valid value is "
            f"{number(config.on_db)}."
        )


RELATIONS.append((VadConfig, _hysteresis))


def energies(blocks: Iterable[Int[np.ndarray, " _"]], sample_rate: int) -> Float[np.ndarray, " T"]:
    """Consecutive blocks of int16 samples → level of every complete 80 ms step in dBFS, float32 [T]."""
    step = round(STEP_SECONDS * sample_rate)
    remainder = np.zeros(0, np.int16)
    levels = [np.zeros(0, np.float32)]
    for block in blocks:
        samples = np.concatenate([remainder, block])
        end = len(samples) // step * step
        remainder = samples[end:]
        levels.append(_decibels(samples[:end].reshape(-1, step)))
    return np.concatenate(levels)


def _decibels(frames: Int[np.ndarray, "T W"]) -> Float[np.ndarray, " T"]:
    # The variance, not the mean square: a DC offset is not sound.
    power = np.var(frames.astype(np.float32) / 32768, axis=1)
    return np.maximum(10 * np.log10(np.maximum(power, 1e-12)), _FLOOR_DB).astype(np.float32)


def voiced(levels: Float[np.ndarray, " T"], config: VadConfig = VadConfig()) -> Bool[np.ndarray, " T"]:
    """Levels in dBFS → True for the steps with speech."""
    if not len(levels):
        return np.zeros(0, bool)
    quiet, loud = np.percentile(levels, (5, 99))  # 99: a chapter may have a minute of speech in an hour
    if loud - quiet < config.range_db:
        return np.zeros(len(levels), bool)
    above = levels - np.minimum(_noise_floor(levels, config), loud - config.headroom_db)
    # Hysteresis: between the two thresholds a step keeps the decision of the last clear step; silence at the start.
    decision = np.where(above >= config.on_db, 1, np.where(above < config.off_db, 0, -1))
    last_clear = np.maximum.accumulate(np.where(decision >= 0, np.arange(len(levels)), -1))
    speech = np.where(last_clear >= 0, decision[np.maximum(last_clear, 0)], 0).astype(bool)
    speech = ~_without_short(~speech, round(config.min_pause_seconds / STEP_SECONDS), inner=True)
    return _without_short(speech, round(config.min_voice_seconds / STEP_SECONDS))


def _noise_floor(levels: Float[np.ndarray, " T"], config: VadConfig) -> Float[np.ndarray, " T"]:
    half = max(1, round(config.floor_seconds / STEP_SECONDS / 2))
    centres = np.arange(0, len(levels), max(1, half // 4))
    floors = [np.percentile(levels[max(0, c - half) : c + half], config.floor_percentile) for c in centres]
    return np.interp(np.arange(len(levels)), centres, floors)


def _without_short(flags: Bool[np.ndarray, " T"], shortest: int, inner: bool = False) -> Bool[np.ndarray, " T"]:
    """Set runs of True shorter than `shortest` to False; with `inner`, runs at the ends stay."""
    kept = flags.copy()
    for start, end in runs(flags):
        if end - start < shortest and not (inner and (start == 0 or end == len(flags))):
            kept[start:end] = False
    return kept


def runs(flags: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """[start, end) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def voice_activity(levels: Float[np.ndarray, " T"], config: VadConfig = VadConfig()) -> list[tuple[float, float]]:
    """Levels in dBFS → spans of speech, [(start, end)] in seconds."""
    return [(start * STEP_SECONDS, end * STEP_SECONDS) for start, end in runs(voiced(levels, config))]
