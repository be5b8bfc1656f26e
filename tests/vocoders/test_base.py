"""A vocoder from outside, and one that does not suit the model."""

import dataclasses

import numpy as np
import pytest
from inference.test_decode import STATISTICS, make_generator, prompts
from models import tiny

from spectron.config import FeatureConfig
from spectron.inference.api import Spectron
from spectron.types import UserError
from spectron.vocoders.base import Vocoder
from spectron.vocoders.griffin_lim import GriffinLim


@dataclasses.dataclass(frozen=True)
class Buzz(Vocoder):
    """As loud as each frame's mean; implements the whole waveform alone."""

    features: FeatureConfig

    def synthesise(self, log_mel):
        return np.repeat(np.tanh(log_mel.mean(axis=1)), self.features.hop).astype(np.float32)


def test_a_model_speaks_with_the_vocoder_it_is_given():
    model = make_generator(tiny.experiment(prenet_dropout=0.0))
    buzzing = Spectron(model.params, model.experiment, STATISTICS, vocoder=Buzz(model.features))
    sample = prompts(1)[0]
    plain, answer = model.generate(sample), buzzing.generate(sample)
    np.testing.assert_array_equal(answer.frames, plain.frames)
    assert len(answer.samples) == len(answer.frames) * model.features.hop
    assert np.abs(answer.samples - plain.samples).max() > 0
    streamed = np.concatenate([piece.samples for piece in buzzing.stream(sample)])
    np.testing.assert_array_equal(streamed, answer.samples)
    assert buzzing.vocoder.facts == {"name": "Buzz"}


def test_a_vocoder_of_other_features_is_refused():
    model = make_generator(tiny.experiment())
    other = GriffinLim(dataclasses.replace(model.features, num_mels=80, hop_seconds=0.01))
    with pytest.raises(UserError, match=r"'GriffinLim' takes other spectrograms.*num_mels 80 instead of 8, hop_sec"):
        Spectron(model.params, model.experiment, STATISTICS, vocoder=other)
    other = GriffinLim(dataclasses.replace(model.features, dft="matmul"))  # the same numbers
    assert Spectron(model.params, model.experiment, STATISTICS, vocoder=other).vocoder is other


@pytest.mark.parametrize("frames", [0, 1, 63, 64, 200])
def test_chunks_join_to_the_whole(frames):
    vocoder = GriffinLim(FeatureConfig(num_mels=8, low_hz=100.0), iterations=2)
    log_mel = np.random.default_rng(0).normal(-6, 2, (frames, 8)).astype(np.float32)
    chunks, start = [], 0
    for end in [*range(0, frames, 50), frames]:
        chunks.append(vocoder.synthesise_chunk(log_mel[:end], start, end == frames))
        start += len(chunks[-1]) // vocoder.features.hop
    np.testing.assert_array_equal(np.concatenate(chunks), vocoder.synthesise(log_mel))
