"""The digit judge: recognises the digits of a recording. Trained on joined training clips only.

It shares no code with the models it judges: a small convolutional network in jax.numpy, on other features, trained with
CTC. The position of every clip in a joined recording is known, which speeds up training (CTC is slow to align).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jaxtyping import Array, Float, Int

from spectron.audio.features import log_mel
from spectron.audio.signal import to_int16
from spectron.config import FeatureConfig
from spectron.data.counting.clips import Clips
from spectron.data.counting.utterances import WORDS
from spectron.types import Hypothesis
from spectron.utils.ctc import collapse
from spectron.utils.padding import batches_by_length, round_up

# Everything below is ours, chosen by trial on Free Spoken Digits.
# The telephone band is enough for digits, and recordings of 8 kHz hold nothing above it.
FEATURES = FeatureConfig(num_mels=48, window_seconds=0.025, hop_seconds=0.01, low_hz=60.0, high_hz=4_000.0)
LAYERS = ((5, 1, 2), (5, 1, 2), (5, 1, 1), (5, 2, 1), (5, 1, 1), (5, 2, 1))  # (kernel, dilation, stride)
WIDTH = 128
STRIDE = 4  # of all layers
FRAME = FEATURES.hop * STRIDE  # samples per output
ROW = round(2.4 * FEATURES.sample_rate) // FRAME * FRAME  # samples of a training row
MOST_DIGITS = 12  # in a training row
LEAD = round(0.2 * FEATURES.sample_rate)  # quiet put around what is heard
BATCH = 16
STEPS = 1000
LEARNING_RATE = 0.02  # Muon's
EMA = 0.99
CORE = 0.25  # the middle half of a clip is surely the digit; its first and last quarter are left to CTC
QUIET_RMS = 4.0  # 16-bit steps, as between the clips of the counting world
SILENT_RMS = 50.0  # 16-bit steps (-56 dBFS): speech of the counting world is at -24 dBFS
_ROWS, _SECONDS = 32, 0.5  # recordings per call, and the grid that lengths are rounded up to

Weights = dict[str, Array]


class JoinedClips(NamedTuple):
    """Training data: samples int16 [S], label and its weight per output [T], digits + 1 [MOST_DIGITS], their number."""

    samples: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    digits: np.ndarray
    spoken: Any  # int32 [], how many


class DigitJudge:
    """A recogniser (types.Recogniser) of digits. facts: its entry in the results, once it is in a folder."""

    name = "digit judge"

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.facts: dict[str, Any] = {}

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] at 16 kHz each → the digits as words."""
        heard = self.hear(recordings)
        return [Hypothesis(" ".join(WORDS[d] for d in digits), 0.0, len(digits)) for digits in heard]

    def hear(self, recordings: Seq[Int[np.ndarray, " S"]]) -> list[list[int]]:
        """int16 [S] at 16 kHz each → the digits heard, in order; [] for silence or an empty recording."""
        digits: list[list[int]] = [[]] * len(recordings)
        grid = round(_SECONDS * FEATURES.sample_rate) // FRAME * FRAME
        surrounded = [np.pad(recording, LEAD) for recording in recordings]
        for batch in batches_by_length(surrounded, _ROWS, lambda longest: round_up(longest, grid)):
            lengths = np.maximum(batch.lengths, 2 * LEAD)  # no row without a frame
            paths = np.asarray(_best(self.weights, batch.values, lengths))
            for row, i in enumerate(batch.indices):
                # Label 1 is the digit 0.
                digits[i] = [] if silent(recordings[i]) else [label - 1 for label in collapse(paths[row])]
        return digits

    def save(self, path: Path) -> None:
        """Write an .npz."""
        fields: dict[str, Any] = {name: np.asarray(value) for name, value in self.weights.items()}
        np.savez(path, **fields)

    @classmethod
    def load(cls, path: Path) -> DigitJudge:
        """Read what save wrote."""
        with path.open("rb") as file, np.load(file) as stored:  # NumPy leaves open what it cannot read
            return cls({name: stored[name] for name in stored.files})


def silent(samples: Int[np.ndarray, " S"]) -> bool:
    """Whether there is no speech: the judge normalises loudness, and would take noise for digits."""
    return not len(samples) or float(np.sqrt(np.mean(np.square(samples.astype(np.float32))))) < SILENT_RMS


def init(key: Array) -> Weights:
    """He-scaled convolutions; a head of zeros, which gives all digits the same score."""
    weights, width = {}, FEATURES.num_mels
    for i, (kernel, _, _) in enumerate(LAYERS):
        size = kernel * width
        weights[f"conv{i}"] = jax.random.normal(jax.random.fold_in(key, i), (size, WIDTH)) * (2 / size) ** 0.5
        weights[f"bias{i}"], weights[f"scale{i}"] = jnp.zeros(WIDTH), jnp.ones(WIDTH)
        width = WIDTH
    return {**weights, "head": jnp.zeros((width, 11)), "head_bias": jnp.zeros(11)}


def logits(weights: Weights, x: Float[Array, "B T F"]) -> Float[Array, "B T4 11"]:
    """Normalised log-mel → scores of blank and the ten digits, one per STRIDE frames."""
    for i, (kernel, dilation, stride) in enumerate(LAYERS):
        steps, pad = x.shape[1], kernel // 2 * dilation
        padded = jnp.pad(x, ((0, 0), (pad, pad), (0, 0)))
        taps = [padded[:, k * dilation : k * dilation + steps : stride] for k in range(kernel)]
        y = jnp.concatenate(taps, axis=-1) @ weights[f"conv{i}"] + weights[f"bias{i}"]
        centred = y - y.mean(axis=-1, keepdims=True)
        y = jax.nn.relu(centred * jax.lax.rsqrt(y.var(axis=-1, keepdims=True) + 1e-5) * weights[f"scale{i}"])
        x = x + y if x.shape == y.shape else y
    return x @ weights["head"] + weights["head_bias"]


def normalise(log_mels: Float[Array, "B T F"], real: Array) -> Float[Array, "B T F"]:
    """Against each recording's mean power over its real frames [B, T, 1]: loudness is irrelevant.

    Not against its mean spectrum: that of one to three digits is mostly the digits (98.7 % instead of 99.7 % of single
    clips right).
    """
    power = jnp.where(real, jnp.exp(log_mels), 0.0).mean(axis=2, keepdims=True).sum(axis=1, keepdims=True)
    level = jnp.log(power / real.sum(axis=1, keepdims=True) + 1e-8)
    return (log_mels - level + 4.0) / 3.0  # about zero mean and unit deviation for joined digits


@jax.jit
def _best(weights: Weights, samples: Array, lengths: Array) -> Array:
    frames = log_mel(samples, lengths, FEATURES)
    real = frames.mask[..., None]
    quiet = jnp.log(FEATURES.log_floor)
    return logits(weights, normalise(jnp.where(real, frames.values, quiet), real)).argmax(axis=-1)


def augment(key: Array, log_mels: Float[Array, "B T F"]) -> Float[Array, "B T F"]:
    """Other rooms: noise of some colour and level, a tilted spectrum, grain; masked bands and moments. Normalised."""
    keys = jax.random.split(key, 8)
    batch, steps, bands = log_mels.shape
    slope = jnp.linspace(-1, 1, bands)
    tilt = jax.random.normal(keys[0], (batch, 1, 1)) * slope
    colour = jax.random.normal(keys[1], (batch, 1, 1)) * slope + 0.5 * jax.random.normal(keys[2], log_mels.shape)
    # Against the loudest band of the row: a higher floor would hide fricatives.
    level = jax.random.uniform(keys[3], (batch, 1, 1), minval=-6.5, maxval=-3.5) * jnp.log(10.0)
    noise = log_mels.max(axis=(1, 2), keepdims=True) + level + colour
    grain = 0.1 * jax.random.normal(keys[4], log_mels.shape)
    mixed = normalise(jnp.logaddexp(log_mels + grain, noise) + tilt, jnp.ones((batch, steps, 1), bool))
    draws = jax.random.split(keys[5], 4)
    first_band = jax.random.randint(draws[0], (batch, 1, 1), 0, bands)
    bands_off = jax.random.randint(draws[1], (batch, 1, 1), 0, bands // 8)
    first_step = jax.random.randint(draws[2], (batch, 3, 1), 0, steps)
    steps_off = jax.random.randint(draws[3], (batch, 3, 1), 0, 8)
    band, step = jnp.arange(bands), jnp.arange(steps)
    hidden = ((step >= first_step) & (step < first_step + steps_off)).any(axis=1)[..., None]
    return jnp.where(hidden | ((band >= first_band) & (band < first_band + bands_off)), 0.0, mixed)


def loss(weights: Weights, rows: JoinedClips, key: Array) -> Array:
    """CTC per digit plus cross-entropy for the outputs whose digit is known."""
    real = jnp.full(rows.samples.shape[0], rows.samples.shape[1])
    scores = logits(weights, augment(key, log_mel(rows.samples, real, FEATURES).values))
    placed = optax.softmax_cross_entropy_with_integer_labels(scores, rows.labels) * rows.weights
    absent = (jnp.arange(MOST_DIGITS) >= rows.spoken[:, None]).astype(jnp.float32)
    ctc = optax.ctc_loss(scores, jnp.zeros(scores.shape[:2]), rows.digits, absent) / jnp.maximum(rows.spoken, 1)
    return placed.sum() / rows.weights.sum() + ctc.mean()


class Joiner:
    """Endless training rows: clips of one speaker at one speed, joined by quiet until the row is full."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips
        self._of = [np.flatnonzero(clips.speaker_of == s) for s in range(len(clips.speakers))]
        self._quiet = np.random.default_rng(0).normal(0, QUIET_RMS, ROW + (1 << 16)).astype(np.float32)
        self._centres = (np.arange(ROW // FRAME) + 0.5) * FRAME

    def row(self, rng: np.random.Generator) -> JoinedClips:
        """One row."""
        at = int(rng.integers(1 << 16))
        samples = self._quiet[at : at + ROW].copy()
        labels, weights = np.zeros(len(self._centres), np.int32), np.ones(len(self._centres), np.float32)
        digits, count = np.zeros(MOST_DIGITS, np.int32), 0
        mine, speed = self._of[rng.integers(len(self._of))], int(rng.integers(len(self.clips.lengths)))
        at = int(rng.uniform(0, 0.15) * FEATURES.sample_rate)
        while count < MOST_DIGITS:
            pick = int(mine[rng.integers(len(mine))])
            clip = self.clips.get(pick, speed)
            end = at + len(clip)
            if end > ROW:
                break
            samples[at:end] += clip * np.float32(10 ** (rng.uniform(-3, 3) / 20))
            inside = (self._centres >= at) & (self._centres < end)
            core = np.abs(self._centres - (at + end) / 2) < (0.5 - CORE) * len(clip)
            weights[inside & ~core], labels[core] = 0.0, self.clips.digits[pick] + 1
            digits[count], count = self.clips.digits[pick] + 1, count + 1
            at = end + int(rng.uniform(0.03, 0.18) * FEATURES.sample_rate)
        return JoinedClips(to_int16(samples / 32768), labels, weights, digits, np.int32(count))

    def batch(self, seed: int, step: int) -> JoinedClips:
        """BATCH rows, a pure function of (seed, step)."""
        rng = np.random.default_rng((seed, step))
        return JoinedClips(*map(np.stack, zip(*(self.row(rng) for _ in range(BATCH)), strict=True)))


def train_digit_judge(
    clips: Clips, seed: int = 1, steps: int = STEPS, progress: Callable[[int], None] | None = None
) -> DigitJudge:
    """Train on a split's clips from scratch. progress is called with every finished step."""
    rate = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, min(50, steps // 4), steps, LEARNING_RATE / 50)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.contrib.muon(rate, adam_learning_rate=lambda step: rate(step) / 10)
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def update(weights: Weights, average: Weights, state: optax.OptState, rows: JoinedClips, step: Array) -> tuple:
        key = jax.random.fold_in(jax.random.key(seed), 1000 + step)
        gradient = jax.grad(loss)(weights, rows, key)
        change, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, change)
        new = 1 - jnp.minimum(EMA, (1 + step) / (10 + step))  # the first steps are soon forgotten
        return weights, optax.incremental_update(weights, average, new), state

    weights = init(jax.random.key(seed))
    average, state = jax.tree.map(jnp.copy, weights), optimizer.init(weights)
    joiner = Joiner(clips)
    for step in range(steps):
        weights, average, state = update(weights, average, state, joiner.batch(seed, step), jnp.int32(step))
        if progress is not None:
            progress(step + 1)
    return DigitJudge(jax.device_get(average))
