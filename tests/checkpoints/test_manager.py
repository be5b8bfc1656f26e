"""Saving, restoring, and the sentences for what can go wrong."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from spectron.checkpoints import manager
from spectron.checkpoints.manager import FOLDER, Checkpointer, find, load_params, load_part, make_meta, steps_in
from spectron.config import DataConfig, Experiment, StageConfig
from spectron.types import Statistics, TrainState, UserError
from spectron.utils.disk import disk_full

EXPERIMENT = Experiment("e", DataConfig(), (StageConfig("first", ()), StageConfig("second", ())))
STATISTICS = Statistics(np.float32([0.1, -3.3333333]), np.float32([1.0, 2.7182817]))
OPTIMIZER = optax.adam(0.1)


def state(step=1, width=3, ema=True):
    params = {"lm": {"kernel": jnp.full((2, width), float(step))}, "encoder": {"bias": jnp.arange(4.0)}}
    average = jax.tree.map(lambda x: x + 0.5, params) if ema else {}
    return TrainState(jnp.int32(step), params, OPTIMIZER.init(params), average)


def abstract(of):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), of)


def write(folder, steps=(1,), stage="first", keep=5, **kinds):
    with Checkpointer(folder, keep) as saver:
        for step in steps:
            saver.save(step, state(step, **kinds), make_meta(EXPERIMENT, stage, STATISTICS))
    return folder


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("ema", [True, False])
def test_a_state_comes_back_exactly(tmp_path, ema):
    with Checkpointer(write(tmp_path, (7,), ema=ema)) as saver:
        same(saver.restore(abstract(state(7, ema=ema))), state(7, ema=ema))


def test_only_the_newest_are_kept(tmp_path):
    assert steps_in(write(tmp_path, (1, 2, 3), keep=2)) == [2, 3]


def test_load_params_prefers_the_average_and_brings_config_and_statistics(tmp_path):
    write(tmp_path, (3,))
    loaded = load_params(tmp_path)
    same(loaded.params, jax.tree.map(np.asarray, state(3).ema))
    assert (loaded.experiment, loaded.stage, loaded.step) == (EXPERIMENT, "first", 3)
    np.testing.assert_array_equal(loaded.statistics.mean, STATISTICS.mean)
    np.testing.assert_array_equal(loaded.statistics.std, STATISTICS.std)
    same(load_params(tmp_path, prefer_ema=False).params, jax.tree.map(np.asarray, state(3).params))
    assert list(load_params(tmp_path, parts=("lm",)).params) == ["lm"]


def test_find_takes_step_stage_and_work_folders(tmp_path):
    write(tmp_path / "first" / FOLDER, (1, 2))
    write(tmp_path / "second" / FOLDER, (1,), stage="second")
    newest = tmp_path / "second" / FOLDER / "1"
    for folder in (tmp_path, tmp_path / "second", newest.parent, newest):
        assert find(folder) == newest
    assert find(tmp_path / "first") == tmp_path / "first" / FOLDER / "2"


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no finished checkpoint"):
        find(tmp_path)
    with Checkpointer(tmp_path / "a") as saver, pytest.raises(UserError, match="no checkpoint"):
        saver.restore(abstract(state()))


def test_a_half_written_checkpoint_is_ignored_and_swept_away(tmp_path):
    write(tmp_path, (1, 2))
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    (tmp_path / "3" / "meta" / "metadata").unlink()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    assert find(tmp_path).name == "2"
    with Checkpointer(tmp_path) as saver:
        assert saver.latest() == 2
        saver.save(3, state(3), make_meta(EXPERIMENT, "first", None))
    assert steps_in(tmp_path) == [2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    write(tmp_path, (1,))
    for data in (tmp_path / "1" / "ema").rglob("d/*"):
        data.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read, it may be half-written") as error:
        load_params(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / "1" / "meta" / "metadata").write_text('{"experi')
    with pytest.raises(UserError, match="cannot be read"):
        load_params(tmp_path)


def test_other_shapes_name_the_key(tmp_path):
    write(tmp_path)
    with Checkpointer(tmp_path) as saver, pytest.raises(UserError, match=r"'lm/kernel' is 2x3 there and 2x5"):
        saver.restore(abstract(state(width=5)))
    with pytest.raises(UserError, match=r"Part 'lm' of checkpoint .* 'lm/kernel' is 2x3 there and 2x5"):
        load_part(tmp_path, "lm", abstract(state(width=5)).params["lm"])
    with pytest.raises(UserError, match=r"no part 'vocoder'; it has"):
        load_part(tmp_path, "vocoder", {})


def test_a_part_is_the_average(tmp_path):
    write(tmp_path, (3,))
    same(load_part(tmp_path, "lm", abstract(state()).params["lm"]), state(3).ema["lm"])


def test_a_config_of_another_version_is_one_sentence(tmp_path):
    write(tmp_path)
    path = tmp_path / "1" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["experiment"]["model"]["flux"] = 1
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"another version.*flux"):
        load_params(tmp_path)


@pytest.mark.parametrize("where", ["at once", "in the background"])
def test_a_full_disk_is_one_sentence_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch, caplog, where):
    write(tmp_path, (1,))
    error = OSError(errno.ENOSPC, "No space left on device")
    with Checkpointer(tmp_path) as saver:

        def fail(*_, **__):
            raise error

        if where == "at once":
            monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
        else:
            monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "finalize", fail)

        def save():
            saver.save(2, state(2), make_meta(EXPERIMENT, "first", None))
            saver.close()

        with pytest.raises(UserError, match=r"disk is full.*step 1 is kept; free some space"):
            save()
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert "Traceback" not in caplog.text
    with Checkpointer(tmp_path) as saver:
        same(saver.restore(abstract(state())), state(1))


def test_disk_full_reads_what_tensorstore_says():
    assert disk_full(ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']"))
    assert not disk_full(ValueError("RESOURCE_EXHAUSTED: out of memory"))
    outer = RuntimeError("save failed")
    outer.__cause__ = OSError(errno.EDQUOT, "quota")
    assert disk_full(outer)


def test_reading_leaves_a_save_under_way_alone(tmp_path):
    write(tmp_path, (1,))
    under_way = tmp_path / "2.orbax-checkpoint-tmp"
    under_way.mkdir()
    load_params(tmp_path)
    assert under_way.is_dir()
    assert manager.steps_in(tmp_path) == [1]
