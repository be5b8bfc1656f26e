"""Cutting of long recordings into utterances: voiced spans are joined up to a target length."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from spectron.config.checks import RULES, SECONDS
from spectron.config.relations import RELATIONS
from spectron.config.rules import FREE, at, number, real


@dataclasses.dataclass(frozen=True)
class CuttingConfig:
    """How a chapter is cut. All lengths are ours: they fit data.prompt_seconds and data.max_seconds."""

    target_seconds: float = 15.0  # voiced spans are joined up to this length
    max_seconds: float = 16.0  # a longer voiced span is cut at its quietest place before this length
    min_seconds: float = 4.75  # shorter utterances are left out and counted; the prompt and a second of continuation
    # True: remove the silence between voiced spans, as Libri-Light's own script does (arXiv 1912.07875, unverified).
    drop_silence: bool = False
    max_pause_seconds: float = 3.0  # a longer pause ends an utterance
    # Silence kept at each end of an utterance, at most half of the silence there; 0 with drop_silence.
    padding_seconds: float = 0.24
    search_seconds: float = 4.0  # the quietest place is searched in this stretch before max_seconds


RULES[CuttingConfig] = {
    "target_seconds": SECONDS,
    "max_seconds": SECONDS,
    "min_seconds": SECONDS,
    "drop_silence": FREE,
    "max_pause_seconds": real(0.0),
    "padding_seconds": real(0.0, SECONDS.high),
    "search_seconds": SECONDS,
}


def _lengths(config: CuttingConfig, key: str) -> Iterator[str]:
    """The shortest, usual and longest utterance rise; silence at the ends and the search fit into them."""
    least, target, most = config.min_seconds, config.target_seconds, config.max_seconds
    if not least <= target <= most:
        yield (
            f"{at(key, 'min_seconds')}={number(least)}, target_seconds={number(target)} and max_seconds={number(most)} "
            f"must not fall in that order; change one of them."
        )
    if 2 * config.padding_seconds >= least:
        yield (
            f"{at(key, 'padding_seconds')}={number(config.padding_seconds)} must be below half of "
            f"min_seconds={number(least)}; lower it."
        )
    if config.search_seconds >= most:
        yield (
            f"{at(key, 'search_seconds')}={number(config.search_seconds)} must be below max_seconds={number(most)}; "
            f"lower it."
        )


RELATIONS.append((CuttingConfig, _lengths))


class Span(NamedTuple):
    """The samples of one utterance: pieces [start, end) of a recording, in ascending order."""

    pieces: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """Index of the first sample."""
        return self.pieces[0][0]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(end - start for start, end in self.pieces)


Loudness = Callable[[int, int], Float[np.ndarray, " T"]]  # samples [start, end) → dBFS of T equal steps


def tidy(activity: Sequence[tuple[float, float]], sample_rate: int, total: int) -> list[tuple[int, int]]:
    """Spans in seconds → spans in samples: clipped to [0, total), sorted, overlapping ones merged."""
    end = total / sample_rate

    def sample(seconds: float) -> int:
        return min(total, round(max(0.0, min(seconds, end)) * sample_rate))

    clipped = sorted((sample(on), sample(off)) for on, off in activity)
    merged: list[tuple[int, int]] = []
    for first, last in clipped:
        if first >= last:
            continue
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def cut(
    voiced: Sequence[tuple[int, int]], total: int, sample_rate: int, config: CuttingConfig, loudness: Loudness
) -> list[Span]:
    """Cut a recording of `total` samples into utterances of at most max_seconds.

    voiced: sorted, disjoint spans in samples, as `tidy` returns them. loudness: called only for spans that are too
    long. Utterances shorter than min_seconds are returned too.
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
    """Extend every piece into the silence on both sides, by at most half of the gap to its neighbour."""
    if not pieces:
        return []
    # The first and the last piece may take all of the silence at their outer side: mirrored neighbours double it.
    starts = [start for start, _ in pieces] + [total + (total - pieces[-1][1])]
    previous_end = -pieces[0][0]
    padded = []
    for index, (start, end) in enumerate(pieces):
        left = min(padding, (start - previous_end) // 2)
        right = min(padding, (starts[index + 1] - end) // 2)
        padded.append((start - left, end + right))
        previous_end = end
    return padded


def _split(
    voiced: Sequence[tuple[int, int]], longest: int, rate: int, config: CuttingConfig, loudness: Loudness
) -> list[tuple[int, int]]:
    """Cut every span that is longer than `longest` samples at its quietest places."""
    shortest = round(config.min_seconds * rate)
    search = round(config.search_seconds * rate)
    pieces = []
    for start, end in voiced:
        while end - start > longest:
            # Search before the limit; if little would remain after it, search in the middle: both halves are then long.
            latest = start + longest
            width = search
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
    """The sample in the middle of the quietest step, of the last one if several are equally quiet."""
    if not len(levels):
        return end
    quietest = len(levels) - 1 - int(np.argmin(levels[::-1]))
    return start + round((quietest + 0.5) * (end - start) / len(levels))
