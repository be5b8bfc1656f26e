"""Log-mel statistics: those of the predicted spectrogram, and the encoder's own where it reads other features."""

import dataclasses

import jax
import numpy as np
import pytest
from models import tiny

from spectron.audio.features import log_mel, measure
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.config import CTCConfig, FeatureConfig
from spectron.models.encoder import encoder_features, unit_statistics
from spectron.objectives import make_objective
from spectron.objectives.joint import make_model
from spectron.training.stage import STATISTICS_ROWS, find_statistics
from spectron.types import TrainState, UserError

OTHER = FeatureConfig(num_mels=6, low_hz=200.0, window_seconds=0.025, hop_seconds=0.01)


class Feed:
    """The same batch again and again."""

    def in_order(self, size):
        while True:
            yield tiny.batch(size)


def with_encoder(**settings):
    experiment = tiny.experiment()
    encoder = dataclasses.replace(experiment.model.encoder, **settings)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, encoder=encoder))


def measured(features):
    batch = tiny.batch(STATISTICS_ROWS)
    mel = jax.jit(log_mel, static_argnums=2)(batch.samples, batch.num_samples, features)
    return measure([np.asarray(row)[mask] for row, mask in zip(mel.values, mel.mask, strict=True)], features)


def statistics_of(experiment, speech):
    return find_statistics({}, speech, experiment.features, encoder_features(experiment))


def test_equal_features_are_measured_once():
    found = statistics_of(tiny.experiment(), Feed())
    assert found.encoder is None and found.of_encoder is found
    np.testing.assert_allclose(found.mean, measured(tiny.FEATURES).mean, rtol=1e-5)


def test_an_encoder_with_other_features_has_statistics_of_its_own(tmp_path):
    experiment = with_encoder(features=OTHER)
    found = statistics_of(experiment, Feed())
    np.testing.assert_allclose(found.mean, measured(tiny.FEATURES).mean, rtol=1e-5)
    np.testing.assert_allclose(found.of_encoder.mean, measured(OTHER).mean, rtol=1e-5)
    np.testing.assert_allclose(found.of_encoder.std, measured(OTHER).std, rtol=1e-5)
    with Checkpointer(tmp_path / "ctc" / FOLDER) as saver:
        state = TrainState(np.int32(1), {"encoder": np.zeros(1, np.float32)}, {}, {})
        saver.save(1, state, make_meta(experiment, "ctc", found))
    jax.tree.map(np.testing.assert_array_equal, Checkpoint.open(tmp_path).statistics, found)


def test_such_an_encoder_trains():
    experiment = with_encoder(features=OTHER)
    objective = make_objective(CTCConfig(), experiment, unit_statistics(experiment))
    batch = tiny.batch(2)
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    assert params["encoder"]["subsampling"]["conv_0"]["kernel"].value.shape[0] == 3 * OTHER.num_mels
    assert np.isfinite(jax.jit(objective.loss)(tiny.unbox(params), batch, jax.random.key(1)).total())
    assert int(objective.encoder.output_length(16_000)) == 25


def test_encoder_and_spectrogram_share_a_sample_rate():
    experiment = with_encoder(features=FeatureConfig(sample_rate=8000, high_hz=4000.0, num_mels=8))
    for make in (make_model, lambda e: make_objective(CTCConfig(), e, None)):
        with pytest.raises(UserError, match=r"model\.encoder reads 8000 samples per second"):
            make(experiment)


def test_a_text_stage_has_no_statistics():
    assert statistics_of(tiny.experiment(), None) is None
