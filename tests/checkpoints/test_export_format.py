"""Names of parameters in an export, and what is said of a folder that is not as it was written."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_exports import one_sentence, random_params, run, same, write_checkpoint

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import FACTS, PIECES, TOKENIZER, VERSION, WEIGHTS, flatten, unflatten
from spectron.export.quantise import quantised
from spectron.types import UserError

LAYERS = ("model.encoder.num_layers=2", "model.lm.num_layers=3")


def test_names_do_not_depend_on_how_layers_are_held():
    stacked = flatten(random_params(*LAYERS, "model.scan_layers=true"))
    separate = flatten(random_params(*LAYERS, "model.scan_layers=false"))
    assert {name: x.shape for name, x in stacked.items()} == {name: x.shape for name, x in separate.items()}
    assert stacked["lm.layers.2.attention.query.kernel"].shape == (16, 16)
    assert {"encoder.layers.1.conv.depthwise.kernel", "lm.embedding", "lm.head.kernel", "stop.bias"} <= set(stacked)


@pytest.mark.parametrize("scan", [True, False])
def test_a_tree_comes_back_from_its_names(scan):
    params = random_params(*LAYERS, f"model.scan_layers={str(scan).lower()}")
    tensors = flatten(params)
    same(unflatten(tensors, scan), params)
    same(flatten(unflatten(tensors, not scan)), tensors)  # and can be laid out the other way


def test_int8_layers_are_stacked_too():
    tensors = quantised({f"lm.layers.{i}.ff.up.kernel": np.full((64, 96), i + 1.0, np.float32) for i in range(2)})
    leaf = unflatten(tensors, True)["lm"]["layers"]["block"]["ff"]["up"]["kernel"]
    assert leaf.values.shape == (2, 64, 96) and leaf.scale.shape == (2, 1, 96)
    np.testing.assert_allclose(leaf.dequantise()[:, 0, 0], [1, 2], rtol=1e-6)


def test_a_missing_layer_is_no_tree():
    with pytest.raises(KeyError):
        unflatten({"lm.layers.1.a": np.zeros(1)}, True)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write_checkpoint(folder / "run")
    assert run("export", "--checkpoint", folder / "run", "--out", folder / "export") == 0
    return folder / "export"


def facts(change):
    def tamper(folder):
        told = json.loads((folder / FACTS).read_text())
        change(told)
        (folder / FACTS).write_text(json.dumps(told))

    return tamper


def weights(change):
    def tamper(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return tamper


def flip(place):
    def tamper(folder):
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[place] ^= 1
        (folder / WEIGHTS).write_bytes(content)

    return tamper


def cut(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def newer(told):
    told["format"] = VERSION + 1
    told["written_by"]["spectron"] = "9.8"


def older(told):
    told["format"] = VERSION - 1
    told["written_by"]["spectron"] = "0.0"


TAMPERED = {
    "truncated": (cut, [WEIGHTS, "not a complete safetensors file"]),
    "empty": (lambda folder: (folder / WEIGHTS).write_bytes(b""), [WEIGHTS, "0 bytes"]),
    "byte of a weight": (flip(-5), ["checksum", WEIGHTS]),
    "byte of the header": (flip(3), [WEIGHTS, "not a complete safetensors file"]),
    "missing tensor": (weights(lambda t: t.pop("stop.bias")), ["'stop.bias'", "missing"]),
    "extra tensor": (weights(lambda t: t.update(extra=np.zeros(3))), ["'extra'", "does not list"]),
    "shape": (weights(lambda t: t.update({"stop.bias": np.zeros(3, np.float32)})), ["'stop.bias'", "[3]", "[2]"]),
    "type": (weights(lambda t: t.update({"stop.bias": np.zeros(2)})), ["'stop.bias'", "F64", "F32"]),
    "values": (weights(lambda t: t.update({"stop.bias": np.ones(2, np.float32)})), ["checksum", WEIGHTS]),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), [WEIGHTS, "missing"]),
    "tokenizer": (lambda folder: (folder / TOKENIZER).write_text("{}"), ["checksum", TOKENIZER]),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), [TOKENIZER, "missing"]),
    "half a JSON": (lambda folder: (folder / FACTS).write_text('{"format'), ["cannot be read"]),
    "no facts in it": (lambda folder: (folder / FACTS).write_text("[]"), ["cannot be read"]),
    "no step": (facts(lambda told: told.pop("step")), ["cannot be read", "step"]),
    "unknown setting": (
        facts(lambda told: told["experiment"]["model"].update(flux=1)),
        ["cannot be opened", "flux"],
    ),
    "newer format": (facts(newer), ["newer spectron 9.8", "install"]),
    "older format": (facts(older), ["earlier spectron 0.0", "export the model again"]),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_a_tampered_export_is_one_sentence(kind, sound, tmp_path, capsys):
    tamper, words = TAMPERED[kind]
    folder = tmp_path / "export"
    shutil.copytree(sound, folder)
    tamper(folder)
    assert run("import", folder, "--out", tmp_path / "out") == 2
    one_sentence(capsys.readouterr().err, str(folder), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    with pytest.raises(UserError):
        Checkpoint.open(folder).load()


@pytest.mark.parametrize("kind", ["newer format", "truncated"])
@pytest.mark.parametrize("command", [["generate", "p.wav"], ["evaluate", "counting"]])
def test_what_reads_checkpoints_says_the_same(kind, command, sound, tmp_path, monkeypatch, capsys):
    tamper, words = TAMPERED[kind]
    folder = tmp_path / "export"
    shutil.copytree(sound, folder)
    tamper(folder)
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "p.wav")
    assert run(*command, "--checkpoint", folder, "--out", "out") == 2
    one_sentence(capsys.readouterr().err, *words)
    assert not (tmp_path / "out").exists()


def write_tone(path):
    import soundfile

    soundfile.write(path, 0.3 * np.sin(np.arange(9600) / 8), 16_000)


def test_an_export_is_opened_like_a_checkpoint(sound, tmp_path):
    checkpoint = Checkpoint.open(sound)
    assert checkpoint.exported and checkpoint.folder == sound
    assert (checkpoint.stage, checkpoint.step, checkpoint.has_average) == ("joint", 7, True)
    assert {"encoder", "lm", "stop"} <= set(checkpoint.parts)
    assert not (sound / PIECES).exists()
    (tmp_path / "later").mkdir()
    shutil.copytree(sound, tmp_path / "later" / "export")  # an export can be moved
    moved = Checkpoint.open(tmp_path / "later" / "export")
    same(moved.load(), checkpoint.load())
    assert moved.facts["weights"] == checkpoint.facts["weights"] and moved.facts != checkpoint.facts
    with pytest.raises(UserError, match="only the moving average"):
        checkpoint.load(prefer_ema=False)
    with pytest.raises(UserError, match="no part 'vocoder'; it has"):
        checkpoint.load(("vocoder",))


def test_a_folder_without_facts_is_not_an_export(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "export")
    (tmp_path / "export" / FACTS).unlink()
    with pytest.raises(UserError, match="no finished checkpoint"):
        Checkpoint.open(tmp_path / "export")
