"""Where to cut a long recording: voiced spans are joined up to a target length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectron.types import UserError


@dataclasses.dataclass(frozen=True)
class CuttingConfig:
    """How a chapter is cut. The lengths are ours: they fit data.prompt_seconds and data.max_seconds."""

    target_seconds: float = 15.0  # voiced spans are joined while the whole is no longer than this
    max_seconds: float = 16.0  # a longer voiced span is cut at its quietest place near this
    min_seconds: float = 4.75  # shorter is left out and counted: the prompt and a second of continuation
    drop_silence: bool = False  # True: the voiced spans side by side, as Libri-Light's own cutter does (PAPER §5)
    max_pause_seconds: float = 3.0  # a longer pause ends an utterance
    padding_seconds: float = (
        0.24  # of the silence around an utterance kept at its ends, at most half of it; 0 with drop_silence
    )
    search_seconds: float = 4.0  # how far before max_seconds the quietest place is looked for

    def check(self) -> None:
        """Raise UserError for settings that cannot be met."""
        if not 0 < self.min_seconds <= self.target_seconds <= self.max_seconds:
            raise UserError(
                f"Cutting wants 0 < min_seconds ({self.min_seconds:g}) ≤ target_seconds ({self.target_seconds:g}) ≤ "
                f"max_seconds ({self.max_seconds:g}); change one of them."
            )
        if self.padding_seconds < 0 or 2 * self.padding_seconds >= self.min_seconds:
            raise UserError(
                f"Cutting: padding_seconds ({self.padding_seconds:g}) must be 0 or more and below half of min_seconds."
            )
        if not 0 < self.search_seconds < self.max_seconds:
            raise UserError(f"Cutting: search_seconds ({self.search_seconds:g}) must lie between 0 and max_seconds.")


class Span(NamedTuple):
    """The samples of one utterance: pieces [start, end) of a recording, in order."""

    pieces: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """Its first sample."""
        return self.pieces[0][0]

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return sum(end - start for start, end in self.pieces)


Loudness = Callable[[int, int], Float[np.ndarray, " T"]]  # samples [start, end) → dBFS of equal steps of it


def tidy(activity: Sequence[tuple[float, float]], sample_rate: int, total: int) -> list[tuple[int, int]]:
    """Seconds in any order, overlapping or beyond the end → samples in order, apart, inside [0, total)."""
    end = total / sample_rate

    def sample(seconds: float) -> int:
        return min(total, round(max(0.0, min(seconds, end)) * sample_rate))

    clipped = sorted((sample(on), sample(off)) for on, off in activity)
    apart: list[tuple[int, int]] = []
    for first, last in clipped:
        if first >= last:
            continue
        if apart and first <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], last))
        else:
            apart.append((first, last))
    return apart


def cut(
    voiced: Sequence[tuple[int, int]], total: int, sample_rate: int, config: CuttingConfig, loudness: Loudness
) -> list[Span]:
    """Voiced stretches in samples, in order and apart → utterances, none longer than max_seconds.

    `loudness` is asked only about stretches that are too long. What is shorter than min_seconds is among the result.
    """
    longest = round(config.max_seconds * sample_rate)
    padding = 0 if config.drop_silence else round(config.padding_seconds * sample_rate)
    padded = _padded(_split(voiced, longest - 2 * padding, sample_rate, config, loudness), total, padding)
    spans: list[Span] = []
    group: list[tuple[int, int]] = []
    for piece in padded:
        if group and not _joins(group, piece, sample_rate, config):
            spans.append(_span(group, config.drop_silence))
            group = []
        group.append(piece)
    if group:
        spans.append(_span(group, config.drop_silence))
    return spans


def _joins(group: list[tuple[int, int]], piece: tuple[int, int], rate: int, config: CuttingConfig) -> bool:
    if config.drop_silence:
        length = sum(end - start for start, end in (*group, piece))
    else:
        length = piece[1] - group[0][0]
    pause = piece[0] - group[-1][1]
    return length <= config.target_seconds * rate and pause <= config.max_pause_seconds * rate


def _span(group: list[tuple[int, int]], drop_silence: bool) -> Span:
    return Span(tuple(group) if drop_silence else ((group[0][0], group[-1][1]),))


def _padded(pieces: list[tuple[int, int]], total: int, padding: int) -> list[tuple[int, int]]:
    """Every piece with some of the silence around it, at most half of what it shares with its neighbour."""
    starts = [start for start, _ in pieces] + [total + (total - pieces[-1][1])] if pieces else []
    padded = []
    before = -pieces[0][0] if pieces else 0  # so that half of the silence at the start is all of it
    for number, (start, end) in enumerate(pieces):
        left = min(padding, (start - before) // 2)
        right = min(padding, (starts[number + 1] - end) // 2)
        padded.append((start - left, end + right))
        before = end
    return padded


def _split(
    voiced: Sequence[tuple[int, int]], longest: int, rate: int, config: CuttingConfig, loudness: Loudness
) -> list[tuple[int, int]]:
    """Stretches of at most `longest` samples, the long ones cut at their quietest places."""
    shortest, search = round(config.min_seconds * rate), round(config.search_seconds * rate)
    pieces = []
    for start, end in voiced:
        while end - start > longest:
            # Near the limit; but where little would be left behind it, near the middle, so that both halves are long.
            latest, width = start + longest, search
            if end - latest < shortest:
                width = max(0, min(search, end - start - 2 * shortest))
                latest = min(latest, (start + end + width) // 2)
            earliest = max(start + 1, latest - width)
            place = _quietest(loudness(earliest, latest), earliest, latest)
            pieces.append((start, place))
            start = place
        pieces.append((start, end))
    return pieces


def _quietest(levels: Float[np.ndarray, " T"], start: int, end: int) -> int:
    """The middle of the quietest step; of several, of the last."""
    if not len(levels):
        return end
    quietest = len(levels) - 1 - int(np.argmin(levels[::-1]))
    return start + round((quietest + 0.5) * (end - start) / len(levels))
