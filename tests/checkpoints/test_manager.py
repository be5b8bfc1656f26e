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

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.integrity import write_checksums
from spectron.checkpoints.manager import VERSION, Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER, steps_in
from spectron.config import DataConfig, Experiment, StageConfig, StreamConfig, TaskConfig, TextLMConfig
from spectron.types import Statistics, TrainState, UserError
from spectron.utils.disk import disk_full

TEXTS = DataConfig(tasks=(TaskConfig("texts", "text"),))
STREAMS = (StreamConfig(TextLMConfig(), "texts", 1),)
EXPERIMENT = Experiment("e", TEXTS, (StageConfig("first", STREAMS), StageConfig("second", STREAMS)))
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
    checkpoint = Checkpoint.open(write(tmp_path, (7,), ema=ema))
    same(checkpoint.restore(abstract(state(7, ema=ema))), state(7, ema=ema))


def test_only_the_newest_are_kept(tmp_path):
    assert steps_in(write(tmp_path, (1, 2, 3), keep=2)) == [2, 3]


def test_the_average_is_preferred_and_config_and_statistics_come_with_it(tmp_path):
    write(tmp_path, (3,))
    checkpoint = Checkpoint.open(tmp_path)
    same(checkpoint.load(), jax.tree.map(np.asarray, state(3).ema))
    assert (checkpoint.experiment, checkpoint.stage, checkpoint.step) == (EXPERIMENT, "first", 3)
    assert checkpoint.has_average and not checkpoint.exported
    np.testing.assert_array_equal(checkpoint.statistics.mean, STATISTICS.mean)
    np.testing.assert_array_equal(checkpoint.statistics.std, STATISTICS.std)
    same(checkpoint.load(prefer_ema=False), jax.tree.map(np.asarray, state(3).params))
    assert list(checkpoint.load(("lm",))) == ["lm"]
    assert checkpoint.parts == ("encoder", "lm")
    assert Checkpoint.open(checkpoint) is checkpoint


def test_open_takes_step_stage_and_work_folders(tmp_path):
    write(tmp_path / "first" / FOLDER, (1, 2))
    write(tmp_path / "second" / FOLDER, (1,), stage="second")
    newest = tmp_path / "second" / FOLDER / "1"
    for folder in (tmp_path, tmp_path / "second", newest.parent, newest, str(newest)):
        assert Checkpoint.open(folder).folder == newest
    assert Checkpoint.open(tmp_path / "first").folder == tmp_path / "first" / FOLDER / "2"


def test_facts_tell_two_models_in_one_folder_apart(tmp_path):
    facts = []
    for step in (1, 2):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        write(tmp_path / "run", (step,))
        (tmp_path / "run" / str(step)).rename(tmp_path / "run" / "9")
        facts.append(Checkpoint.open(tmp_path / "run").facts)
    assert facts[0]["checkpoint"] == facts[1]["checkpoint"] == str(tmp_path / "run" / "9")
    assert facts[0]["weights"] != facts[1]["weights"]


def test_no_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Checkpoint.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no finished checkpoint"):
        Checkpoint.open(tmp_path)


def test_a_half_written_checkpoint_is_passed_over_aloud_and_swept_away(tmp_path, caplog):
    write(tmp_path, (1, 2))
    shutil.copytree(tmp_path / "2", tmp_path / "3")
    (tmp_path / "3" / "meta" / "metadata").unlink()
    (tmp_path / "4.orbax-checkpoint-tmp").mkdir()
    assert Checkpoint.open(tmp_path).folder.name == "2"
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / '3'} is incomplete (it has no meta/metadata); step 2 is used."
    ]
    with Checkpointer(tmp_path) as saver:
        assert saver.latest() == 2
        assert "is incomplete; it is kept as 3.unfinished" in caplog.text
        saver.save(3, state(3), make_meta(EXPERIMENT, "first", None))
    assert steps_in(tmp_path) == [2, 3]
    left = sorted(path.name.partition(".unfinished")[0] for path in tmp_path.iterdir())
    assert left == ["2", "3", "3"]  # what may hold something is kept, under another name


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("item", ["ema", "meta"])
def test_one_flipped_bit_is_found_and_the_file_is_named(tmp_path, item):
    write(tmp_path, (1, 2))
    damaged = max((tmp_path / "2" / item).rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    flip(damaged)
    name = damaged.relative_to(tmp_path / "2").as_posix()
    with pytest.raises(UserError, match=f"damaged: its file '{name}' (has changed|is not as)") as error:
        Checkpoint.open(tmp_path).load()
    assert f"use '{tmp_path / '1'}' instead" in str(error.value)
    assert "remove" not in str(error.value) and "\n" not in str(error.value)


def test_training_does_not_continue_from_a_damaged_optimizer(tmp_path):
    write(tmp_path)
    for path in (tmp_path / "1" / "optimizer").rglob("d/*"):
        flip(path)
    checkpoint = Checkpoint.open(tmp_path)
    checkpoint.load()  # which needs no optimizer
    with pytest.raises(UserError, match=r"damaged: its file 'optimizer/.*' has changed"):
        checkpoint.restore(abstract(state()))


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path)
    missing = next((tmp_path / "1" / "ema").rglob("d/*"))
    missing.unlink()
    with pytest.raises(UserError, match=f"damaged: its file 'ema/.*{missing.name}' is missing; copy it again"):
        Checkpoint.open(tmp_path).load()


def test_what_is_no_json_is_named_without_checksums_too(tmp_path):
    write(tmp_path)
    next((tmp_path / "1").glob("checksums-*")).unlink()
    (tmp_path / "1" / "meta" / "metadata").write_text('{"experi')
    with pytest.raises(UserError, match="damaged: its file 'meta/metadata' is not as it was written"):
        Checkpoint.open(tmp_path)


def test_a_checkpoint_whose_checksums_were_not_written_is_read(tmp_path):
    write(tmp_path)
    next((tmp_path / "1").glob("checksums-*")).unlink()
    same(Checkpoint.open(tmp_path).load(), jax.tree.map(np.asarray, state(1).ema))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "does not fit into this machine's memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "does not fit into the device's memory"),
        (OSError(errno.EIO, "Input/output error"), "cannot be read: .*Input/output error"),
    ],
)
def test_a_healthy_checkpoint_is_not_blamed(tmp_path, monkeypatch, error, sentence):
    write(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.PyTreeCheckpointer, "restore", fail)
    with pytest.raises(UserError, match=sentence) as raised:
        checkpoint.load()
    assert not any(word in str(raised.value) for word in ("damaged", "half", "remove", "copy"))


def test_a_copy_of_the_last_stage_is_not_taken_for_it(tmp_path):
    write(tmp_path / "first" / FOLDER, (1,))
    write(tmp_path / "second" / FOLDER, (12,), stage="second")
    write(tmp_path / "second_copy" / FOLDER, (6,), stage="second")
    with pytest.raises(UserError, match=r"second' and '.*second_copy' hold the same stage"):
        Checkpoint.open(tmp_path)
    assert Checkpoint.open(tmp_path / "second").step == 12


def test_other_shapes_name_the_key(tmp_path):
    write(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    with pytest.raises(UserError, match=r"'lm/kernel' is 2x3 there and 2x5"):
        checkpoint.restore(abstract(state(width=5)))
    with pytest.raises(UserError, match=r"Part 'lm' of checkpoint .* 'lm/kernel' is 2x3 there and 2x5"):
        checkpoint.load_part("lm", abstract(state(width=5)).params["lm"])
    with pytest.raises(UserError, match=r"no part 'vocoder'; it has"):
        checkpoint.load_part("vocoder", {})


def test_a_part_is_the_average(tmp_path):
    write(tmp_path, (3,))
    same(Checkpoint.open(tmp_path).load_part("lm", state().params["lm"]), jax.device_get(state(3).ema["lm"]))


def test_a_config_of_another_version_is_one_sentence(tmp_path):
    write(tmp_path)
    path = tmp_path / "1" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["experiment"]["model"]["flux"] = 1
    path.write_text(json.dumps(meta))
    write_checksums(tmp_path / "1")
    with pytest.raises(UserError, match=r"cannot be opened by this spectron.*flux"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"), [(-1, "earlier version.*must be trained again"), (1, "newer version.*install")]
)
def test_another_layout_is_one_sentence(tmp_path, change, words):
    path = write(tmp_path) / "1" / "meta" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": VERSION + change}))
    with pytest.raises(UserError, match=words):
        Checkpoint.open(tmp_path)


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
    same(Checkpoint.open(tmp_path).restore(abstract(state())), state(1))


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
    Checkpoint.open(tmp_path).load()
    assert under_way.is_dir()
    assert steps_in(tmp_path) == [1]
