"""int8 weights: which, how far from the original, how large."""

import json

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_exports import one_sentence, run, same, write_checkpoint

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import WEIGHTS, dequantised, flatten, read_tensors
from spectron.export import quantise as module
from spectron.export.quantise import quantise, summed_axis
from spectron.types import Int8, UserError

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("lm.layers.0.attention.query.kernel", (64, 64), 0),
        ("lm.head.kernel", (64, 260), 0),
        ("lm.embedding", (260, 64), 1),
        ("stop.kernel", (1024, 1), None),
        ("encoder.layers.0.conv.depthwise.kernel", (32, 512), None),
        ("lm.final_norm.scale", (8192,), None),
        ("postnet.out.bias", (8192,), None),
    ],
)
def test_names_and_shapes_decide(name, shape, axis):
    assert summed_axis(name, shape) == axis
    assert isinstance(quantise(name, np.ones(shape, np.float32)), Int8) == (axis is not None)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["a.kernel", "a.embedding"]), arrays.arrays(np.float32, (6, 5), elements=FLOATS))
def test_no_weight_is_further_off_than_half_a_scale(name, array):
    axis = {"a.kernel": 0, "a.embedding": 1}[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SMALL", 1)
        found = quantise(name, array)
    assert found.values.dtype == np.int8 and found.scale.dtype == np.float32 and found.values.min() >= -127
    assert found.scale.shape == ((1, 5) if axis == 0 else (6, 1))
    scale = found.scale.astype(np.float64)
    off = np.abs(found.values * scale - array.astype(np.float64))
    assert (off <= scale / 2).all()
    rounding = 1e-5 * scale  # of the product in float32
    assert (np.abs(found.dequantise() - array.astype(np.float64)) <= scale / 2 + rounding).all()


def test_a_channel_of_zeros_stays_zero():
    array = np.ones((64, 64), np.float32)
    array[:, 3] = 0
    np.testing.assert_array_equal(quantise("a.kernel", array).dequantise()[:, 3], 0)


def test_a_weight_that_is_no_number_is_named():
    with pytest.raises(UserError, match=r"'a\.kernel' holds NaN"):
        quantise("a.kernel", np.full((64, 64), np.nan, np.float32))


def test_an_int8_export_is_a_quarter_and_reads_as_float32(tmp_path, capsys):
    wide = ("model.lm.dim=64", "model.lm.ff_dim=512", "data.vocabulary.kind=bytes")
    checkpoint = write_checkpoint(tmp_path / "run", *wide)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "full") == 0
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "small", "--quantise", "int8") == 0
    assert "in float32" in capsys.readouterr().out
    sizes = {name: (tmp_path / name / WEIGHTS).stat().st_size for name in ("full", "small")}
    assert sizes["small"] < 0.35 * sizes["full"]
    facts = json.loads((tmp_path / "small" / "spectron.json").read_text())
    assert facts["quantised"] == "int8" and facts["tensors"]["lm.embedding"] == {"dtype": "I8", "shape": [260, 64]}
    assert facts["tensors"]["lm.embedding.scale"]["shape"] == [260, 1]
    kept = read_tensors(tmp_path / "small")
    original = flatten(Checkpoint.open(checkpoint).load())
    assert set(kept) == set(original)
    for name, x in kept.items():
        if isinstance(x, Int8):
            assert (np.abs(x.dequantise() - original[name]) <= x.scale * 0.50001).all()
        else:
            np.testing.assert_array_equal(x, original[name])
    read = Checkpoint.open(tmp_path / "small").load()
    same(flatten(read), dequantised(kept))
    assert run("import", tmp_path / "small", "--out", tmp_path / "back") == 0
    same(Checkpoint.open(tmp_path / "back").load(), read)
    assert set(Checkpoint.open(tmp_path / "small").load(("lm",))) == {"lm"}


def test_another_kind_of_quantising_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        run("export", "--checkpoint", tmp_path, "--out", tmp_path / "out", "--quantise", "int3")
    assert error.value.code == 2 and "int8" in capsys.readouterr().err


def test_what_cannot_be_quantised_leaves_nothing(tmp_path, capsys, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "run")
    monkeypatch.setattr(module, "SMALL", 1)
    monkeypatch.setattr(module.np, "isfinite", lambda x: np.zeros(x.shape, bool))
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "out", "--quantise", "int8") == 2
    monkeypatch.undo()
    one_sentence(capsys.readouterr().err, "cannot be quantised")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
