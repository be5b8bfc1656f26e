"""Frozen parts: kept bit for bit, left out of checkpoints, read from the base that a checkpoint names."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_run import NoiseFeed, experiment, noise_batch, stands

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import ObjectiveConfig
from spectron.export.folder import export
from spectron.objectives import make_objective
from spectron.parallel import sharding
from spectron.training import loop, step
from spectron.training.metrics import RATES
from spectron.training.optimizer import frozen_layout
from spectron.types import Statistics, UserError

SHORT = ("stages.text.steps=2", "stages.text.save_every=1", "stages.speech.steps=4", "stages.speech.save_every=2")
FROZEN = 'stages.speech.optimizers=[["lm", {"kind": "frozen"}]]'


@pytest.fixture(autouse=True)
def noise(monkeypatch):
    """Batches of noise instead of a corpus, and objectives that compile in a second."""
    monkeypatch.setattr(loop, "make_feed", NoiseFeed)
    monkeypatch.setattr(step, "make_objectives", stands)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the stages "text" and "speech", the second with a frozen LM, stopped once on the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_feed", NoiseFeed)
        patch.setattr(step, "make_objectives", stands)
        folder = tmp_path_factory.mktemp("finished")
        assert loop.train(experiment(*SHORT, FROZEN), folder, ["text"])
        assert not loop.train(experiment(*SHORT, FROZEN), folder, ["speech"], stop_after=2)
        assert loop.train(experiment(*SHORT, FROZEN), folder, ["speech"])
    return folder


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in RATES} for row in rows]


def size(folder):
    """Bytes of a checkpoint's arrays."""
    return sum(path.stat().st_size for path in folder.rglob("d/*") if path.is_file())


def test_the_frozen_part_is_the_base_to_the_bit_and_the_others_move(finished):
    base, trained = Checkpoint.open(finished / "text"), Checkpoint.open(finished)
    assert (trained.stage, trained.step, trained.parts) == ("speech", 4, ("ctc_head", "encoder", "lm"))
    for prefer_ema in (True, False):
        params = trained.load(prefer_ema=prefer_ema)
        same(params["lm"], base.load()["lm"])
    assert params["encoder"]["bias"].any()  # its initial values are zeros
    assert set(trained.load(("encoder",))) == {"encoder"}


def test_a_restart_changes_nothing(finished, tmp_path):
    shutil.copytree(finished / "text", tmp_path / "text")
    assert loop.train(experiment(*SHORT, FROZEN), tmp_path, ["speech"])
    assert lines(tmp_path / "speech") == lines(finished / "speech")
    same(Checkpoint.open(tmp_path).load(prefer_ema=False), Checkpoint.open(finished).load(prefer_ema=False))


def test_a_checkpoint_holds_only_what_is_trained(finished, tmp_path):
    shutil.copytree(finished / "text", tmp_path / "text")
    assert loop.train(experiment(*SHORT), tmp_path, ["speech"])
    frozen, whole = (Checkpoint.open(folder / "speech").folder for folder in (finished, tmp_path))
    for item in ("params", "ema", "optimizer"):
        assert not [path for path in (frozen / item).rglob("*") if "lm" in path.name.split(".")]
    assert size(frozen) < 0.9 * size(whole)  # compressed, so that it varies a little
    with pytest.raises(
        UserError, match=r"trained with stages\.speech\.optimizers\.lm\.kind = 'frozen', this config has no"
    ):
        loop.train(experiment(*SHORT), finished, ["speech"])


def test_part_of_a_part_can_be_frozen(finished, tmp_path):
    shutil.copytree(finished / "text", tmp_path / "text")
    config = experiment(*SHORT, FROZEN.replace('"lm"', '"lm/layers"'))
    assert loop.train(config, tmp_path, ["speech"])
    before, after = Checkpoint.open(tmp_path / "text").load()["lm"], Checkpoint.open(tmp_path).load()["lm"]
    same(after["layers"], before["layers"])
    assert (after["bias"] != before["bias"]).all()


def test_the_default_can_be_frozen(finished, tmp_path):
    shutil.copytree(finished / "text", tmp_path / "text")
    trained = 'stages.speech.optimizers=[["encoder", {"kind": "adam"}], ["ctc_head", {"kind": "muon"}]]'
    assert loop.train(experiment(*SHORT, "stages.speech.optimizer.kind=frozen", trained), tmp_path, ["speech"])
    same(Checkpoint.open(tmp_path).load(("lm",))["lm"], Checkpoint.open(tmp_path / "text").load()["lm"])
    rates = {name for name in lines(tmp_path / "speech")[0] if name.startswith("learning_rate")}
    assert rates == {"learning_rate/encoder", "learning_rate/ctc_head"}


def test_an_export_holds_everything(finished, tmp_path):
    export(finished, tmp_path / "export")
    shutil.rmtree(shutil.copytree(finished, tmp_path / "run") / "text")
    same(Checkpoint.open(tmp_path / "export").load(), Checkpoint.open(finished).load())
    with pytest.raises(UserError, match=r"Put .*text.* back"):
        export(tmp_path / "run", tmp_path / "again")


def test_a_work_folder_can_be_moved(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "moved")
    same(Checkpoint.open(tmp_path / "moved").load(), Checkpoint.open(finished).load())


def test_another_base_is_refused(finished, tmp_path):
    assert loop.train(experiment(*SHORT, "seed=1"), tmp_path / "other", ["text"])
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "text")
    shutil.copytree(tmp_path / "other" / "text", run / "text")
    with pytest.raises(UserError, match=r"'lm' of .*text.* is not the one .* fingerprint differs; put the"):
        Checkpoint.open(run).load()
    shutil.rmtree(run / "speech" / "checkpoints" / "4")
    with pytest.raises(UserError, match="fingerprint differs"):
        loop.train(experiment(*SHORT, FROZEN), run, ["speech"])
    shutil.rmtree(run / "text")
    with pytest.raises(UserError, match=r"Put .*text.* back: .* needs its part 'lm', .* does not exist"):
        loop.train(experiment(*SHORT, FROZEN), run, ["speech"])
    assert set(Checkpoint.open(run).load(("encoder",))) == {"encoder"}  # which needs no base


@pytest.mark.parametrize("part", ["encoder", "ctc_head"])
def test_a_frozen_part_without_a_source_is_one_sentence(finished, tmp_path, part):
    shutil.copytree(finished / "text", tmp_path / "text")
    config = experiment(*SHORT, FROZEN.replace('"lm"', f'"{part}"'))
    with pytest.raises(UserError, match=rf"'{part}' is frozen and .* stages\.speech\.start_from"):
        loop.train(config, tmp_path, ["speech"])


@pytest.mark.parametrize("kind", ["text_lm", "ctc"])
def test_frozen_matrices_are_held_in_compute_dtype_and_the_loss_is_the_same(kind):
    config = experiment("model.compute_dtype=bfloat16")
    statistics = Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))
    objective = make_objective(ObjectiveConfig.members[kind](), config, statistics)
    batch = jax.device_put(noise_batch(config, "text" if kind == "text_lm" else "speech", 2, 0, 0))
    params = sharding.unbox(jax.jit(objective.init)(jax.random.key(0), batch))
    layout = frozen_layout(params, config.model.compute_dtype)
    held = jax.tree.map(lambda x, a: x.astype(a.dtype), params, layout)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(held)} == {"bfloat16", "float32"}
    assert sum(x.nbytes for x in jax.tree.leaves(held)) < 0.6 * sum(x.nbytes for x in jax.tree.leaves(params))
    loss = jax.jit(lambda params: objective.loss(params, batch, jax.random.key(1), train=False).means())
    same(loss(held), loss(params))
