"""The counting world: six spoken digits counting from s by k modulo ten, joined from single clips of one speaker.

The prompt is the first three digits, the continuation the other three. Six of the thirty sequences never occur in
speech training (the held-out ones): they occur in text alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.counting.clips import Clips, load_clips
from spectron.data.counting.raw_clips import WORDS as WORDS
from spectron.data.example import Source
from spectron.types import Example, UserError

SEQUENCES = {(s, k): tuple((s + i * k) % 10 for i in range(6)) for k in (1, 2, 3) for s in range(10)}
HELD_OUT = (
    (3, 1),
    (8, 1),
    (1, 2),
    (6, 2),
    (2, 3),
    (9, 3),
)  # ours: (start, step), two for each step
SEEN = tuple(key for key in SEQUENCES if key not in HELD_OUT)
HELD_OUT_TRIPLES = frozenset(t for key in HELD_OUT for t in (SEQUENCES[key][:3], SEQUENCES[key][3:]))

GAP_SECONDS = (0.05, 0.15)  # quiet between clips (ours)
GAP_RMS = 4.0  # ours, in 16-bit steps: quiet, not digital zero, and below the features' log floor
GAIN_DB = 3.0  # ours: ± in training
PROMPT_DIGITS = 3
ENDLESS_SIZE = 20_000  # ours: examples an endless source declares unless the task says otherwise
TEST_REPEATS = 2  # ours: takes of every sequence by every speaker in a test task (360 items with six speakers)
ATTEMPTS = 100  # ours: draws before the limits of a batch are reported as too tight
TEST_SEED = 20_231_011  # ours: test items never depend on the experiment's seed


def to_text(digits: Sequence[int]) -> str:
    """Digits as words: (2, 5) → "two five"."""
    return " ".join(WORDS[d] for d in digits)


def is_clean(digits: Sequence[int]) -> bool:
    """True when no held-out prompt or continuation occurs among the digits as three in a row."""
    return not any(tuple(digits[i : i + 3]) in HELD_OUT_TRIPLES for i in range(len(digits) - 2))


def is_held_out(digits: Sequence[int]) -> bool:
    """True for one of the six sequences that speech training never holds."""
    return tuple(digits) in {SEQUENCES[key] for key in HELD_OUT}


class Speaking:
    """Joins clips into utterances. `train` turns on random speed and gain."""

    def __init__(self, clips: Clips, data: DataConfig, features: FeatureConfig, train: bool):
        self.clips = clips
        self._train = train
        self._hop = features.hop
        self._table, self._takes = clips.by_speaker_and_digit, clips.takes_of_speakers
        rate = features.sample_rate
        self._gap = tuple(round(seconds * rate) for seconds in GAP_SECONDS)
        self._limits = tuple(
            int(s * rate)
            for s in (
                data.max_seconds,
                data.max_prompt_seconds,
                data.max_continuation_seconds,
            )
        )
        noise = np.random.default_rng(0).normal(0, GAP_RMS, 1 << 16)
        self._noise = np.round(noise).astype(np.int16)

    def say(
        self,
        digits: Sequence[int],
        speaker: int,
        rng: np.random.Generator,
        prompt_digits: int,
    ) -> tuple[np.ndarray, int, tuple[int, ...]]:
        """(samples int16 [S], prompt_samples, word_ends): one utterance that fits the batch. UserError if none does."""
        lengths = self.clips.lengths
        for _ in range(ATTEMPTS):
            speed = int(rng.integers(len(lengths))) if self._train else 0
            picks = self._pick(digits, speaker, rng)
            gaps = rng.integers(self._gap[0], self._gap[1] + 1, size=len(digits) - 1)
            total = int(lengths[speed, picks].sum() + gaps.sum())
            prompt = total
            if prompt_digits < len(digits):
                # The middle of the gap, brought to a whole frame so that prompt and continuation share one grid.
                prompt = int(lengths[speed, picks[:prompt_digits]].sum() + gaps[: prompt_digits - 1].sum())
                prompt = (prompt + int(gaps[prompt_digits - 1]) // 2) // self._hop * self._hop
            if total <= self._limits[0] and prompt <= self._limits[1] and total - prompt <= self._limits[2]:
                ends = np.cumsum(lengths[speed, picks]) + np.concatenate([[0], np.cumsum(gaps)])
                return self._join(picks, speed, gaps, total, rng), prompt, tuple(ends.tolist())
        raise UserError(
            f"No spoken {to_text(digits)!r} fits data.max_seconds, max_prompt_seconds and max_continuation_seconds; "
            "raise them."
        )

    def _pick(self, digits: Sequence[int], speaker: int, rng: np.random.Generator) -> list[int]:
        """The clips of one utterance: all of one take, so that rate and pitch of the prompt go on, or any."""
        takes = self._takes[speaker]
        if takes:
            take = takes[int(rng.integers(len(takes)))]
            return [int(take[d]) for d in digits]
        table = self._table[speaker]
        return [int(table[d][int(rng.integers(len(table[d])))]) for d in digits]

    def _join(
        self,
        picks: list[int],
        speed: int,
        gaps: np.ndarray,
        total: int,
        rng: np.random.Generator,
    ) -> np.ndarray:
        out = np.empty(total, np.int16)
        gain = np.float32(10 ** (rng.uniform(-GAIN_DB, GAIN_DB) / 20)) if self._train else None
        noise_at = rng.integers(0, len(self._noise) - self._gap[1], size=len(picks))
        at = 0
        for i, pick in enumerate(picks):
            clip = self.clips.get(pick, speed)
            # clips.PEAK leaves room for the gain: no sample can pass full scale
            out[at : at + len(clip)] = clip if gain is None else clip * gain
            at += len(clip)
            if i < len(gaps):
                out[at : at + gaps[i]] = self._noise[noise_at[i] : noise_at[i] + gaps[i]]
                at += int(gaps[i])
        return out


class DigitSource(Source):
    """Endless utterances of a split; record i is a pure function of (seed, i).

    kind "counting": train holds the 24 seen sequences, test all thirty by every speaker in a fixed order.
    kind "random_digits": six digits in random order without a held-out triple; only the prompt's words are scored.
    kind "spoken_digits": one to six random digits without restriction, for judges only.
    """

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig, seed: int):
        self._kind = task.source
        self._seed = seed
        clips = load_clips(data, features, task.split, task.root)
        self._train = task.split == "train"
        self._speaking = Speaking(clips, data, features, self._train)
        self._speakers = clips.speakers
        self._listed = self._kind == "counting" and not self._train
        self._size = task.size or (
            len(SEQUENCES) * len(clips.speakers) * TEST_REPEATS if self._listed else ENDLESS_SIZE
        )
        self.rejected: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Example:
        if not 0 <= i < self._size:
            raise IndexError(i)  # so that iteration ends
        rng = np.random.default_rng((TEST_SEED if self._listed else self._seed, i))
        if self._listed:
            per_take = len(SEQUENCES) * len(self._speakers)
            take, place = divmod(i, per_take)
            speaker, sequence = divmod(place, len(SEQUENCES))
            digits = list(SEQUENCES.values())[sequence]
        else:
            take, speaker, digits = (
                i,
                int(rng.integers(len(self._speakers))),
                self._digits(rng),
            )
        prompt_digits = PROMPT_DIGITS if self._kind != "spoken_digits" else len(digits)
        samples, prompt, ends = self._speaking.say(digits, speaker, rng, prompt_digits)
        name = f"{self._kind}/{self._speakers[speaker]}/{''.join(map(str, digits))}/{take}"
        # What follows a random prompt cannot be predicted, so it carries no cross-entropy.
        scored = PROMPT_DIGITS if self._kind == "random_digits" else -1
        return Example(samples, prompt, to_text(digits), name, self._speakers[speaker], scored, ends)

    def _digits(self, rng: np.random.Generator) -> tuple[int, ...]:
        if self._kind == "counting":
            return SEQUENCES[SEEN[int(rng.integers(len(SEEN)))]]
        if self._kind == "spoken_digits":
            return tuple(map(int, rng.integers(10, size=int(rng.integers(1, 7)))))
        while True:
            digits = tuple(map(int, rng.integers(10, size=6)))
            if is_clean(digits):
                return digits


class CountingText(Source):
    """The thirty sequences as text, the held-out ones among them."""

    text_only = True
    seeded = False

    def __init__(self) -> None:
        self.rejected: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(SEQUENCES)

    def __getitem__(self, i: int) -> Example:
        digits = list(SEQUENCES.values())[i]
        return Example(
            np.zeros(0, np.int16),
            0,
            to_text(digits),
            f"counting_text/{''.join(map(str, digits))}",
        )


def test_items(data: DataConfig, features: FeatureConfig, repeats: int = 2, root: str = "") -> list[Example]:  # noqa: PT028
    """All thirty sequences × speakers × repeats from the test clips, the same on every machine."""
    speakers = len(load_clips(data, features, "test", root).speakers)
    size = len(SEQUENCES) * speakers * repeats
    source = DigitSource(TaskConfig("test_items", "counting", "test", root, size), data, features, TEST_SEED)
    return [source[i] for i in range(size)]


def single_clips(data: DataConfig, features: FeatureConfig, split: str = "test", root: str = "") -> list[Example]:
    """Every single clip of a split at its own speed, its digit as text: for judges of digits and of speakers."""
    clips = load_clips(data, features, split, root)
    return [
        Example(
            np.array(clips.get(c)),
            int(clips.lengths[0, c]),
            WORDS[clips.digits[c]],
            name,
            clips.speakers[clips.speaker_of[c]],
        )
        for c, name in enumerate(clips.names)
    ]


def test_clips(data: DataConfig, features: FeatureConfig, root: str = "") -> list[Example]:  # noqa: PT028
    """The single clips of the test split."""
    return single_clips(data, features, "test", root)
