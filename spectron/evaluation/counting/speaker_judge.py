"""The speaker judge: which of a closed set of speakers is heard. Trained on training clips only."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float, Int

from spectron.audio.spectrograms import log_mels
from spectron.config import FeatureConfig
from spectron.data.counting.clips import Clips

# Ours: finer in time than the model's own features; recordings of 8 kHz hold nothing above 4 kHz.
FEATURES = FeatureConfig(
    num_mels=60, window_seconds=0.025, hop_seconds=0.01, low_hz=60.0, high_hz=4_000.0, log_floor=1e-6
)
# Ours: what lies further below the loudest band is clipped. Rooms give speakers away, and a model's log floor hides
# them: of copies of real continuations above a floor of 2.5e-3 a judge without this named 27 % right.
HEARD_NATS = 3.5 * np.log(10)
CEPSTRA = 24  # ours: whose covariances tell voices apart; without them 97.3 % instead of 99.3 % of single clips
LOUD_NATS = 2.5 * np.log(10)  # ours: frames within 25 dB of the loudest are the voice, the others the room
PENALTY = 0.1  # ours: inverse of the ridge on the weights
STORED = ("speakers", "mean", "std", "weights", "bias")  # fields in the file
JOINED = 2000  # ours: without joined clips, 93 % instead of 100 % of three synthesised digits


@dataclasses.dataclass
class SpeakerJudge:
    """Multinomial logistic regression on statistics of a voice's log-mel spectrum; also a judges.base.SpeakerEncoder.

    facts: its entry in the results, once it is in a folder.
    """

    speakers: tuple[str, ...]
    mean: Float[np.ndarray, " D"]
    std: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "C D"]
    bias: Float[np.ndarray, " C"]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def name(self, recordings: Seq[Int[np.ndarray, " S"]]) -> list[str]:
        """int16 [S] at 16 kHz each → the nearest speaker's name; "" for one too short to hold a frame."""
        stats = [statistics(frames) for frames in log_mels(recordings, FEATURES)]
        known = [(s - self.mean) / self.std @ self.weights.T + self.bias if s is not None else None for s in stats]
        return ["" if scores is None else self.speakers[int(np.argmax(scores))] for scores in known]

    def embed(self, recordings: Seq[Int[np.ndarray, " S"]]) -> Float[np.ndarray, "N C"]:
        """int16 [S] at 16 kHz each → one-hot vectors of the speakers named, so that a cosine says right or wrong.

        All 0 for a recording too short to be named.
        """
        return self.vectors(self.name(recordings))

    def vectors(self, names: Seq[str]) -> Float[np.ndarray, "N C"]:
        """The vectors of speakers by name."""
        return np.stack([np.asarray([speaker == name for speaker in self.speakers], np.float32) for name in names])

    def save(self, path: Path) -> None:
        """Write an .npz."""
        fields: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in STORED}
        np.savez(path, **fields)

    @classmethod
    def load(cls, path: Path) -> SpeakerJudge:
        """Read what save wrote."""
        with path.open("rb") as file, np.load(file) as stored:  # NumPy leaves open what it cannot read
            fields = {name: stored[name] for name in STORED}
        return cls(**{**fields, "speakers": tuple(map(str, fields["speakers"]))})


def statistics(frames: Float[np.ndarray, "T F"]) -> Float[np.ndarray, " D"] | None:
    """Of the loud frames, level taken out: mean, deviation and outer deciles per band and covariances of cepstra.

    None without frames.
    """
    if not len(frames):
        return None
    frames = np.maximum(frames, frames.max() - HEARD_NATS)
    energy = frames.mean(axis=1)
    loud = frames[energy >= energy.max() - LOUD_NATS]
    loud = loud - loud.mean()
    cepstra = scipy.fft.dct(loud, axis=1, norm="ortho")[:, 1 : 1 + CEPSTRA]
    covariances = np.cov(cepstra.T, bias=True)[np.triu_indices(CEPSTRA)]
    return np.concatenate([loud.mean(axis=0), loud.std(axis=0), *np.quantile(loud, (0.1, 0.9), axis=0), covariances])


def train_speaker_judge(clips: Clips, seed: int = 1) -> SpeakerJudge:
    """Fit the judge on single clips at their own speed and on twos and threes of one speaker. Takes seconds."""
    from sklearn.linear_model import LogisticRegression  # here: slow to import

    rng = np.random.default_rng(seed)
    recordings, speakers = [clips.get(c) for c in range(len(clips.digits))], list(clips.speaker_of)
    for _ in range(JOINED):
        speaker = int(rng.integers(len(clips.speakers)))
        picks = rng.choice(np.flatnonzero(clips.speaker_of == speaker), size=int(rng.integers(2, 4)))
        recordings.append(np.concatenate([clips.get(c) for c in picks]))
        speakers.append(speaker)
    stats = [statistics(frames) for frames in log_mels(recordings, FEATURES)]
    usable = [i for i, s in enumerate(stats) if s is not None]
    inputs = np.stack([s for s in stats if s is not None])
    mean, std = inputs.mean(axis=0), inputs.std(axis=0) + 1e-3
    model = LogisticRegression(C=PENALTY, max_iter=500).fit((inputs - mean) / std, np.asarray(speakers)[usable])
    weights, bias = model.coef_, model.intercept_
    if len(clips.speakers) == 2:  # scikit-learn keeps one row for two classes
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    return SpeakerJudge(clips.speakers, mean, std, weights, bias)
