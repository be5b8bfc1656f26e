"""`spectron export` and `spectron import`: there and back to the bit, whole or not at all."""

import json
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import tiny_run
from safetensors.numpy import load_file
from tiny_exports import one_sentence, random_params, run, same, write_checkpoint

from spectron.checkpoints import export_format, manager
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import to_json
from spectron.data.vocabulary import make_pieces, make_vocabulary
from spectron.export.formats import FORMATS
from spectron.inference.api import Spectron
from spectron.training.loop import train
from spectron.types import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "it"
    assert run("export", "--checkpoint", checkpoint, "--out", folder) == 0
    return folder


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("scan", ["true", "false"])
def test_there_and_back_to_the_bit(scan, ema, tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "run", f"model.scan_layers={scan}", ema=ema)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "export") == 0
    assert run("import", tmp_path / "export", "--out", tmp_path / "back") == 0
    assert str(tmp_path / "back") in capsys.readouterr().out
    before = Checkpoint.open(checkpoint)
    for folder in (tmp_path / "export", tmp_path / "back"):
        after = Checkpoint.open(folder)
        same(after.load(), before.load())
        same(after.statistics, before.statistics)
        assert (after.experiment, after.stage, after.step) == (before.experiment, "joint", 7)
    assert Checkpoint.open(tmp_path / "export").has_average == ema
    assert Checkpoint.open(tmp_path / "back").folder == tmp_path / "back" / "joint" / "checkpoints" / "7"


@pytest.mark.parametrize("objective", ["ctc", "text_lm"])
def test_every_stage_can_be_exported(objective, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "run", objective=objective, ema=False)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "export") == 0
    same(Checkpoint.open(tmp_path / "export").load(), Checkpoint.open(checkpoint).load())
    assert (Checkpoint.open(tmp_path / "export").statistics is None) == (objective == "text_lm")


def test_raw_parameters_instead_of_the_average(checkpoint, exported, tmp_path, capsys):
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "raw", "--raw") == 0
    same(Checkpoint.open(tmp_path / "raw").load(), Checkpoint.open(checkpoint).load(prefer_ema=False))
    assert json.loads((tmp_path / "raw" / "spectron.json").read_text())["average"] is False
    assert json.loads((exported / "spectron.json").read_text())["average"] is True
    assert run("export", "--checkpoint", exported, "--out", tmp_path / "no", "--raw") == 2
    one_sentence(capsys.readouterr().err, "only the moving average")


def test_the_folder_says_all_that_a_reader_needs(exported, checkpoint):
    assert sorted(path.name for path in exported.iterdir()) == [
        *("README.md", "spectron.json", "tokenizer.json", "weights.safetensors")
    ]
    facts = json.loads((exported / "spectron.json").read_text())
    experiment = Checkpoint.open(checkpoint).experiment
    assert facts["experiment"] == json.loads(to_json(experiment))
    assert facts["features"]["hop"] == 200 and facts["features"]["fft_size"] == 1024
    assert facts["written_by"]["jax"] == jax.__version__ and facts["kind"] == "safetensors"
    assert facts["statistics"]["mean"] == Checkpoint.open(checkpoint).meta["statistics"]["mean"]
    for name, file in facts["files"].items():
        assert file == {"bytes": (exported / name).stat().st_size, "sha256": export_format.checksum(exported / name)}
    tensors = load_file(exported / "weights.safetensors")
    assert {name: list(x.shape) for name, x in tensors.items()} == {n: t["shape"] for n, t in facts["tensors"].items()}
    text = (exported / "README.md").read_text()
    for word in (
        "| lm.layers.N.attention.query.kernel | 16 x 16 | F32 | 2 |",
        "stage joint",
        "moving average",
        "step 7",
    ):
        assert word in text
    modes = {path.stat().st_mode for path in exported.iterdir()}
    assert len(modes) == 1  # whoever may read one file may read all


def test_the_same_export_is_the_same_bytes(checkpoint, exported, tmp_path):
    assert run("export", "--checkpoint", exported, "--out", tmp_path / "again") == 0
    for path in exported.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert Checkpoint.open(exported).facts["weights"] == Checkpoint.open(tmp_path / "again").facts["weights"]


def test_an_export_speaks_as_its_checkpoint_does(checkpoint, exported, tmp_path):
    soundfile.write(tmp_path / "p.wav", 0.3 * np.sin(np.arange(9600) / 8), 16_000)
    assert run("import", exported, "--out", tmp_path / "back") == 0
    for name, folder in (("one", checkpoint), ("two", exported), ("three", tmp_path / "back")):
        assert run("generate", tmp_path / "p.wav", "--checkpoint", folder, "--out", tmp_path / name) == 0
        assert (tmp_path / name / "p.wav").read_bytes() == (tmp_path / "one" / "p.wav").read_bytes()
    read = json.loads((tmp_path / "two" / "p.json").read_text())
    assert read["checkpoint"] == str(exported)
    same(Spectron.from_checkpoint(exported).params, Spectron.from_checkpoint(checkpoint).params)


def test_stages_start_from_an_export_and_from_what_was_imported(checkpoint, exported, tmp_path):
    assert run("import", exported, "--out", tmp_path / "back") == 0
    params = Checkpoint.open(checkpoint).load()["lm"]
    for folder in (exported, tmp_path / "back"):
        same(Checkpoint.open(folder).load_part("lm", params), params)
    with pytest.raises(UserError, match="no part 'ctc_head'; it has"):
        Checkpoint.open(exported).load_part("ctc_head", {})


def test_what_was_imported_cannot_go_on_by_itself(tmp_path):
    for steps in (7, 9):
        checkpoint = write_checkpoint(tmp_path / f"run{steps}", f"stages.joint.steps={steps}")
        assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / f"export{steps}") == 0
        assert run("import", tmp_path / f"export{steps}", "--out", tmp_path / f"back{steps}") == 0
    experiment = Checkpoint.open(tmp_path / "back7").experiment
    assert train(experiment, tmp_path / "back7", ["joint"])  # nothing left to do
    experiment = Checkpoint.open(tmp_path / "back9").experiment
    with pytest.raises(UserError, match=r"was imported and has no optimizer state.*stages\.joint\.start_from"):
        train(experiment, tmp_path / "back9", ["joint"])


def test_the_sentencepiece_model_travels_along(tmp_path):
    pieces = tmp_path / "far" / "pieces.model"
    pieces.parent.mkdir()
    pieces.write_bytes(make_pieces(["the quick brown fox", "a lazy dog sleeps"] * 9, 30))
    vocabulary = ("data.vocabulary.kind=sentencepiece", f"data.vocabulary.path={pieces}")
    checkpoint = write_checkpoint(tmp_path / "run", *vocabulary)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "export") == 0
    ids = make_vocabulary(Checkpoint.open(checkpoint).experiment.data.vocabulary).encode("the lazy fox")
    # The folders carry the pieces: another file of the same size at that path changes nothing.
    pieces.write_bytes(make_pieces(["pack my box with", "five dozen jugs"] * 9, 30))
    assert run("import", tmp_path / "export", "--out", tmp_path / "back") == 0
    for folder in ("run", "export", "back"):
        config = Checkpoint.open(tmp_path / folder).experiment.data.vocabulary
        assert make_vocabulary(config).encode("the lazy fox") == ids
    (tmp_path / "export" / "tokenizer.model").write_bytes(b"?")
    with pytest.raises(UserError, match=r"checksum of tokenizer\.model"):
        Checkpoint.open(tmp_path / "export").load()


def add_format(monkeypatch, write):
    monkeypatch.setitem(FORMATS, "extra", "extra_format")
    monkeypatch.setitem(sys.modules, "extra_format", types.SimpleNamespace(write=write))


def test_a_format_adds_files_to_the_base(checkpoint, tmp_path, monkeypatch):
    def write(folder, checkpoint):
        assert (folder / "weights.safetensors").is_file() and checkpoint.stage == "joint"
        (folder / "more").mkdir()
        (folder / "more" / "graph.bin").write_bytes(b"graph")
        return "## Graph\n\nHow to run it."

    add_format(monkeypatch, write)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "it", "--format", "extra") == 0
    facts = json.loads((tmp_path / "it" / "spectron.json").read_text())
    assert facts["kind"] == "extra" and facts["files"]["more/graph.bin"]["bytes"] == 5
    assert "## Graph\n\nHow to run it.\n" in (tmp_path / "it" / "README.md").read_text()
    Checkpoint.open(tmp_path / "it").load()


@pytest.mark.parametrize("error", [UserError("This model cannot be traced."), KeyboardInterrupt()])
def test_a_format_that_fails_leaves_nothing(error, checkpoint, tmp_path, monkeypatch):
    def write(folder, checkpoint):
        raise error

    add_format(monkeypatch, write)
    assert run("export", "--checkpoint", checkpoint, "--out", tmp_path / "it", "--format", "extra") in (2, 130)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_place_that_cannot_be_written_is_one_sentence(command, checkpoint, exported, tmp_path, capsys, monkeypatch):
    source = ["--checkpoint", checkpoint] if command == "export" else [exported]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("mine")
    for out, words in ((tmp_path / "full", "not empty"), (tmp_path / "full" / "thing", "is not a folder")):
        assert run(command, *source, "--out", out) == 2
        one_sentence(capsys.readouterr().err, str(out), words)
    below = tmp_path / "full" / "thing" / "below"
    assert run(command, *source, "--out", below) == 2
    one_sentence(capsys.readouterr().err, str(below), "is not a folder")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert run(command, *source, "--out", tmp_path / "new") == 2
    one_sentence(capsys.readouterr().err, str(tmp_path / "new"), "Permission denied")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "thing"]


def test_an_empty_folder_is_a_new_one(exported, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("import", exported, "--out", tmp_path / "out") == 0
    Checkpoint.open(tmp_path / "out")


FULL = """
import resource, signal, sys
from tiny_exports import run
command, source, out = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # what comes behind so many bytes finds no room
print(run(command, *(["--checkpoint"] if command == "export" else []), source, "--out", out))
"""


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_disk_that_fills_up_is_one_sentence(command, checkpoint, exported, tmp_path, run_python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    source = checkpoint if command == "export" else exported
    done = run_python(FULL, command, str(source), str(tmp_path / "out"))
    assert done.stdout.split()[-1] == "2"
    one_sentence(done.stderr, "disk is full", str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_what_is_no_finished_checkpoint_is_not_exported(tmp_path, capsys):
    step = Checkpoint.open(write_checkpoint(tmp_path / "run")).folder
    for data in (step / "ema").rglob("d/*"):
        data.write_bytes(data.read_bytes()[:10])
    assert run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out") == 2
    one_sentence(capsys.readouterr().err, "damaged", "ema/")
    shutil.rmtree(step / "ema")  # the parameters are there, and they are another model
    assert run("export", "--checkpoint", tmp_path / "run", "--out", tmp_path / "out") == 2
    one_sentence(capsys.readouterr().err, "damaged", "ema", "missing")
    same(Checkpoint.open(step).load(prefer_ema=False), random_params())
    (step / "meta" / "metadata").unlink()
    for folder in (tmp_path / "run", step, tmp_path / "nowhere"):
        assert run("export", "--checkpoint", folder, "--out", tmp_path / "out") == 2
        one_sentence(capsys.readouterr().err, str(folder))
    assert run("import", tmp_path / "run", "--out", tmp_path / "out") == 2
    one_sentence(capsys.readouterr().err, "is not an export")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


NEWER = {
    "export": ["export", "--checkpoint", "RUN"],
    "generate": ["generate", "p.wav", "--checkpoint", "RUN"],
    "evaluate": ["evaluate", "counting", "--checkpoint", "RUN"],
}


@pytest.mark.parametrize("command", NEWER)
def test_a_checkpoint_of_a_newer_version_is_one_sentence(command, tmp_path, capsys):
    newer(tmp_path)
    words = [tmp_path / "run" if word == "RUN" else word for word in NEWER[command]]
    assert run(*words, "--out", tmp_path / "out") == 2
    one_sentence(capsys.readouterr().err, "newer version of spectron", "install")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def newer(folder):
    meta = Checkpoint.open(write_checkpoint(folder / "run")).folder / "meta" / "metadata"
    told = json.loads(meta.read_text())
    meta.write_text(json.dumps({**told, "version": manager.VERSION + 1}))


def test_training_does_not_go_on_from_a_newer_version(tmp_path):
    newer(tmp_path)
    with pytest.raises(UserError, match="newer version of spectron"):
        train(tiny_run.experiment("stages.joint.steps=9"), tmp_path / "run", ["joint"])
