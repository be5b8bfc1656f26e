"""What start_from refuses: an encoder of other features, an LM of another vocabulary, other layers of equal shapes."""

import dataclasses

import jax
import numpy as np
import pytest
from models import tiny
from training.test_statistics import OTHER, Feed, measured, with_encoder

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.config import AdamConfig, JointConfig, SentencePieceConfig, StageConfig, StreamConfig, WordsConfig
from spectron.data.vocabulary import make_pieces
from spectron.models.encoder import encoder_features
from spectron.training.stage import find_statistics, open_sources
from spectron.types import Statistics, TrainState, UserError

WIDE = dataclasses.replace(tiny.FEATURES, low_hz=20.0)  # as many bands, other frequencies


def saved(folder, experiment, statistics=None):
    """A checkpoint of an experiment in `folder`, whose parameters do not matter."""
    with Checkpointer(folder / "s" / FOLDER) as saver:
        state = TrainState(np.int32(1), {"encoder": np.zeros(1, np.float32)}, {}, {})
        saver.save(1, state, make_meta(experiment, "s", statistics))
    return folder


def opened(part, folder, experiment):
    """What the stage's start finds out about `part`, taken from `folder`."""
    stage = StageConfig("joint", (StreamConfig(JointConfig(), "x"),), 1, AdamConfig(), ((part, str(folder)),))
    return open_sources(dataclasses.replace(experiment, stages=(stage,)), stage, folder)


def with_model(part, **settings):
    experiment = tiny.experiment()
    changed = dataclasses.replace(getattr(experiment.model, part), **settings)
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **{part: changed}))


def with_vocabulary(vocabulary):
    return tiny.with_data(tiny.experiment(), vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("part", "other", "words"),
    [
        ("encoder", with_encoder(features=WIDE), r"model\.encoder\.features\.low_hz = 20\.0, this config has 100\.0"),
        ("postnet", dataclasses.replace(tiny.experiment(), features=WIDE), r"with features\.low_hz = 20\.0"),
        ("lm", with_vocabulary(WordsConfig(("one", "zero", "two", "three"))), "another vocabulary .both words"),
        ("encoder", with_model("encoder", num_heads=4), r"model\.encoder\.num_heads = 4, this config has 2"),
        ("lm", with_model("lm", activation="silu"), r"model\.lm\.activation = 'silu'"),
    ],
    ids=["input features", "predicted features", "vocabulary", "heads", "activation"],
)
def test_a_part_of_another_kind_with_the_same_shapes_is_refused(tmp_path, part, other, words):
    folder = saved(tmp_path, other)
    with pytest.raises(UserError, match=rf"stages\.joint\.start_from: the part '{part}' of .*{words}.*; set "):
        opened(part, folder, tiny.experiment())
    assert set(opened("connector", folder, tiny.experiment())) == {"connector"}  # which none of it concerns
    assert set(opened(part, folder, other)) == {part}


def test_how_the_dft_is_computed_may_differ(tmp_path):
    matmul = dataclasses.replace(tiny.FEATURES, dft="matmul")
    folder = saved(tmp_path, with_encoder(features=matmul))
    assert set(opened("encoder", folder, tiny.experiment())) == {"encoder"}


def test_sentencepiece_models_are_compared_by_content(tmp_path):
    """The path may differ; the file at the path may have changed since."""
    one, two = (make_pieces([text] * 9, 12) for text in ("one two three", "zero nine ten"))
    (tmp_path / "pieces").write_bytes(one)
    vocabulary = SentencePieceConfig(str(tmp_path / "pieces"))
    folder = saved(tmp_path / "run", with_vocabulary(vocabulary))
    (tmp_path / "copy").write_bytes(one)
    opened("lm", folder, with_vocabulary(SentencePieceConfig(str(tmp_path / "copy"))))
    opened("lm", folder, with_vocabulary(SentencePieceConfig(str(tmp_path / "nowhere"), size=16)))  # packed tokens
    (tmp_path / "pieces").write_bytes(two)
    with pytest.raises(UserError, match=r"another vocabulary .both sentencepiece"):
        opened("lm", folder, with_vocabulary(vocabulary))
    with pytest.raises(UserError, match=r"another vocabulary .sentencepiece there and words here"):
        opened("ctc_head", folder, tiny.experiment())


# The figures of a log floor other than the data's.
MINE = Statistics(np.full(8, -4.98, np.float32), np.ones(8, np.float32))
APART = dataclasses.replace(MINE, encoder=Statistics(np.full(6, -1.0, np.float32), np.ones(6, np.float32)))


def found(folder, part, experiment, speech=None):
    sources = {part: Checkpoint.open(folder)}
    return find_statistics(sources, speech, experiment.features, encoder_features(experiment))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_statistics_of_equal_features_come_with_the_part(tmp_path):
    same(found(saved(tmp_path / "a", tiny.experiment(), MINE), "encoder", tiny.experiment(), Feed()), MINE)
    apart = with_encoder(features=OTHER)
    same(found(saved(tmp_path / "b", apart, APART), "encoder", apart, Feed()), APART)
    same(found(tmp_path / "b", "lm", apart), APART)


def test_statistics_of_other_features_are_measured_again(tmp_path):
    """The log-mel that an encoder reads keeps its statistics where the predicted one is another, and vice versa."""
    folder = saved(tmp_path / "a", tiny.experiment(), MINE)
    wide = dataclasses.replace(tiny.experiment(), features=WIDE)
    mixed = found(folder, "encoder", wide, Feed())
    np.testing.assert_allclose(mixed.mean, measured(WIDE).mean, rtol=1e-5)
    same(mixed.of_encoder, MINE)
    fresh = found(folder, "lm", with_encoder(features=OTHER), Feed())
    same(dataclasses.replace(fresh, encoder=None), MINE)
    np.testing.assert_allclose(fresh.of_encoder.mean, measured(OTHER).mean, rtol=1e-5)
    plain = found(saved(tmp_path / "b", with_encoder(features=OTHER), APART), "lm", tiny.experiment(), Feed())
    same(plain, MINE)
