"""What decoding reads of an experiment, in one hashable struct: the static argument of every jitted function."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence as Seq

from spectron.config import Experiment, FeatureConfig, ModelConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.inference.sampling import GREEDY, Sampler
from spectron.models.spectron import Spectron, prefix_length
from spectron.types import UserError


@dataclasses.dataclass(frozen=True)
class MaxLengths:
    """The longest answer. text_tokens: with the stop id; frame_steps: of `frames_per_step` frames each."""

    text_tokens: int
    frame_steps: int


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Decoding's settings. Equal configs share compiled programs; nothing here changes with the training's settings.

    features: of the target spectrogram. stop_ids: tokens that end the text. max_prompt_samples: of the longest prompt;
    with max_lengths it decides the size of the cache. output_streams: the streams that are decoded, in order.
    """

    model: ModelConfig
    features: FeatureConfig
    vocab_size: int
    sos_id: int
    stop_ids: tuple[int, ...]
    max_lengths: MaxLengths
    max_prompt_samples: int
    output_streams: tuple[str, ...] = Spectron.output_streams
    sampler: Sampler = GREEDY

    def __post_init__(self) -> None:
        known = Spectron.output_streams
        if not self.output_streams or len(set(self.output_streams)) < len(self.output_streams):
            raise UserError(f"Output streams {self.output_streams} are empty or repeat; give some of {known}.")
        for stream in self.output_streams:
            if stream not in known:
                raise UserError(f"Output stream {stream!r} is unknown; this model has {', '.join(known)}.")
        wrong = [i for i in self.stop_ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise UserError(f"Stop id {wrong[0]} is not in the vocabulary; give ids from 0 to {self.vocab_size - 1}.")
        needed = {"text": self.max_lengths.text_tokens, "frames": self.max_lengths.frame_steps}
        for stream in self.output_streams:
            if needed[stream] < 1:
                raise UserError(f"A maximum of {needed[stream]} leaves no room for {stream}; give at least 1.")

    @classmethod
    def from_experiment(
        cls,
        experiment: Experiment,
        *,
        max_lengths: MaxLengths | None = None,
        max_prompt_seconds: float | None = None,
        output_streams: Seq[str] = Spectron.output_streams,
        stop_ids: Seq[int] | None = None,
        sampler: Sampler | None = None,
    ) -> DecodeConfig:
        """An experiment's settings. By default lengths are the training data's, and the text ends at eos.

        Raises UserError for output streams that the model does not have, stop ids outside the vocabulary, or lengths
        below 1.
        """
        data, features = experiment.data, experiment.features
        vocabulary = make_vocabulary(data.vocabulary)
        seconds = data.max_prompt_seconds if max_prompt_seconds is None else max_prompt_seconds
        return cls(
            model=experiment.model,
            features=features,
            vocab_size=vocabulary.size,
            sos_id=vocabulary.sos_id,
            stop_ids=(vocabulary.eos_id,) if stop_ids is None else tuple(stop_ids),
            max_lengths=max_lengths or trained_lengths(experiment),
            max_prompt_samples=round(seconds * features.sample_rate),
            output_streams=tuple(output_streams),
            sampler=sampler or GREEDY,
        )

    @property
    def has_text(self) -> bool:
        """Whether text is decoded."""
        return "text" in self.output_streams

    @property
    def has_frames(self) -> bool:
        """Whether frames are decoded."""
        return "frames" in self.output_streams

    @property
    def frame_steps(self) -> int:
        """The most frame steps: 0 for text alone."""
        return self.max_lengths.frame_steps if self.has_frames else 0

    @property
    def text_tokens(self) -> int:
        """The most text tokens: 0 for frames alone."""
        return self.max_lengths.text_tokens if self.has_text else 0

    @property
    def step_width(self) -> int:
        """Values in a frame step: frames_per_step · F."""
        return self.model.frames.frames_per_step * self.features.num_mels

    def prefix_length(self, prompt_samples: int) -> int:
        """Positions that a prompt of this many samples takes."""
        return prefix_length(self.model, prompt_samples)

    def cache_length(self, prompt_samples: int | None = None) -> int:
        """Positions of a slot's cache: prefix, text and frame steps; by default for the longest prompt."""
        samples = self.max_prompt_samples if prompt_samples is None else prompt_samples
        return self.prefix_length(samples) + self.text_tokens + self.frame_steps


def trained_lengths(experiment: Experiment) -> MaxLengths:
    """The longest answers of the training data."""
    data, features = experiment.data, experiment.features
    frames = features.num_frames(round(data.max_continuation_seconds * features.sample_rate))
    return MaxLengths(
        text_tokens=data.max_tokens,
        frame_steps=-(-frames // experiment.model.frames.frames_per_step),
    )
