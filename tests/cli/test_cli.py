"""The command line: what a user types right, and what a user gets wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import tiny_run

from spectron import cli
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.cli.generate import SOME_FAILED
from spectron.config import ObjectiveConfig
from spectron.objectives import make_objective
from spectron.parallel import sharding
from spectron.types import Statistics, TrainState, UserError

RATE = 16_000
SIZES = ("data.max_prompt_seconds=1.0", "data.max_continuation_seconds=0.5", "data.max_seconds=1.5")
# The head of an MP4 file: what a video renamed .wav starts with.
VIDEO = b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(range(256)) * 8


def write_checkpoint(folder, objective, stage):
    """A checkpoint of an untrained tiny model."""
    config = tiny_run.experiment(*SIZES)
    bands = config.features.num_mels
    statistics = Statistics(np.full(bands, -6, np.float32), np.full(bands, 3, np.float32))
    made = make_objective(ObjectiveConfig.members[objective](), config, statistics)
    batch = tiny_run.noise_batch(config, "speech", 1, 0, 0)
    shapes = sharding.unbox(jax.eval_shape(made.init, jax.random.key(0), batch))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(x.dtype), shapes)
    saver = Checkpointer(folder / stage / FOLDER)
    saver.save(1, TrainState(jnp.int32(1), params, {}, {}), make_meta(config, stage, statistics))
    saver.close()
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run"), "spectron", "joint")


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A checkpoint of another kind: no language model in it."""
    return write_checkpoint(tmp_path_factory.mktemp("run"), "ctc", "speech")


def tone(seconds=0.6, channels=1):
    t = np.arange(round(seconds * RATE)) / RATE
    return np.repeat(0.3 * np.sin(2 * np.pi * 300 * t)[:, None], channels, axis=1)


def one_sentence(error, *words):
    """What stderr must be: one line, no traceback, naming what is wrong."""
    lines = [line for line in error.splitlines() if line.startswith("spectron: ")]
    assert len(lines) == 1 and "Traceback" not in error
    assert lines[0].endswith((".", "?")) and all(word in lines[0] for word in words), lines[0]


BAD_AUDIO = {
    "missing": (lambda path: None, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "video": (lambda path: path.write_bytes(VIDEO), "not audio"),
    "silence": (lambda path: soundfile.write(path, np.zeros(RATE), RATE), "silent"),
    "short": (lambda path: soundfile.write(path, tone(0.1), RATE), "too short"),
    "long": (lambda path: soundfile.write(path, tone(600.0), RATE), "too long"),
    "nan": (lambda path: soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT"), "NaN"),
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_is_one_sentence(kind, checkpoint, tmp_path, capsys):
    make, words = BAD_AUDIO[kind]
    path, out = tmp_path / f"{kind}.wav", tmp_path / "out"
    make(path)
    assert cli.main(["generate", "--checkpoint", str(checkpoint), str(path), "--out", str(out)]) == 2
    one_sentence(capsys.readouterr().err, path.name, words)
    assert not out.exists()


def test_generate_answers_the_good_and_names_the_bad(checkpoint, tmp_path, capsys):
    soundfile.write(tmp_path / "one.wav", tone(), RATE)
    soundfile.write(tmp_path / "seven channels.flac", tone(1.5, channels=7), 44_100)
    (tmp_path / "empty.wav").write_bytes(b"")
    inputs = [str(tmp_path / name) for name in ("one.wav", "empty.wav", "seven channels.flac")]
    command = ["generate", "--checkpoint", str(checkpoint), *inputs, "--out", str(tmp_path / "out"), "--seed", "3"]
    assert cli.main(command) == SOME_FAILED
    said = capsys.readouterr()
    one_sentence(said.err, "empty.wav")
    out = tmp_path / "out"
    (failure,) = map(json.loads, (out / "failures.jsonl").read_text().splitlines())
    assert failure["name"] == "empty" and "empty (0 bytes)" in failure["reason"] and failure["audio"] == inputs[1]
    assert sorted(p.name for p in out.iterdir() if p.name != "failures.jsonl") == [
        f"{stem}.{kind}" for stem in ("one", "seven channels") for kind in ("json", "png", "wav")
    ]
    for stem, seconds in (("one", 0.6), ("seven channels", 1.5 * RATE / 44_100)):
        record = json.loads((out / f"{stem}.json").read_text())
        samples, rate = soundfile.read(out / f"{stem}.wav")
        assert record["seconds"] == len(samples) / rate and rate == record["sample_rate"] == RATE
        assert record["frames"] == len(samples) // 200 and record["stopped_by"] in ("stop head", "maximum length")
        assert record["prompt_seconds"] == pytest.approx(seconds, abs=1e-3) and record["seed"] == 3
        assert isinstance(record["transcript"], str) and record["audio"].endswith(("one.wav", "seven channels.flac"))
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_two_inputs_of_one_name_are_refused(tmp_path, checkpoint, capsys):
    inputs = [str(tmp_path / "a" / "x.wav"), str(tmp_path / "b" / "x.flac")]
    assert cli.main(["generate", "--checkpoint", str(checkpoint), *inputs, "--out", str(tmp_path / "out")]) == 2
    one_sentence(capsys.readouterr().err, "x.wav", "x.flac", "rename")


@pytest.mark.parametrize("command", [["generate", "PROMPT"], ["evaluate", "counting"]])
def test_no_checkpoint_and_another_kind_of_checkpoint(command, recogniser, tmp_path, capsys):
    soundfile.write(tmp_path / "p.wav", tone(), RATE)
    command = [str(tmp_path / "p.wav") if word == "PROMPT" else word for word in command]
    for folder, words in ((tmp_path / "nowhere", "nowhere"), (tmp_path, str(tmp_path)), (recogniser, "lm")):
        assert cli.main([*command, "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 2
        one_sentence(capsys.readouterr().err, words)
    assert not (tmp_path / "out").exists()


def test_evaluate_refuses_a_model_of_another_world(checkpoint, tmp_path, capsys):
    command = ["evaluate", "counting", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    one_sentence(capsys.readouterr().err, "no words for digits")
    assert cli.main([*command, "--set", "data.rot=x"]) == 2
    one_sentence(capsys.readouterr().err, "data.rot", "did you mean 'root'")


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("from tiny_run import experiment  # noqa: F401\n")
    return str(path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--set", "model.encoder.dims=3"], ["model.encoder.dims", "did you mean 'dim'"]),
        (["--set", "seed=1", "model.encoder.dim=x"], ["model.encoder.dim", "x is not a whole number"]),
        (["--set", "seed=1", "--set", "seed"], ["'seed'", "="]),
        (["--stage", "nothing"], ["'nothing'", "text, speech, joint"]),
    ],
)
def test_train_names_what_is_wrong_in_the_config(config, extra, words, tmp_path, capsys):
    assert cli.main(["train", config, "--workdir", str(tmp_path / "run"), *extra]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words) and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_train_without_a_config_file(tmp_path, capsys):
    assert cli.main(["train", str(tmp_path / "none.py"), "--workdir", str(tmp_path / "run")]) == 2
    one_sentence(capsys.readouterr().err, "none.py", "does not exist")


def test_train_runs_what_the_flags_say(config, tmp_path, monkeypatch):
    import spectron.training.loop

    calls = []
    monkeypatch.setattr(spectron.training.loop, "train", lambda *arguments: calls.append(arguments))
    sets = ["--set", "seed=7", "model.encoder.dim=24", "--set", "stages.text.steps=5"]
    assert cli.main(["train", config, "--workdir", "W", "--stage", "text", "--stage", "speech", *sets]) == 0
    (experiment, workdir, stages), *rest = calls
    assert (workdir, stages, rest) == ("W", ["text", "speech"], [])
    assert (experiment.seed, experiment.model.encoder.dim, experiment.stage("text").steps) == (7, 24, 5)


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (UserError("No."), 2)])
def test_exit_codes(config, monkeypatch, capsys, raised, code):
    import spectron.training.loop

    def stop(*_):
        raise raised

    monkeypatch.setattr(spectron.training.loop, "train", stop)
    assert cli.main(["train", config, "--workdir", "W"]) == code
    assert capsys.readouterr().err.startswith("spectron: ")


def test_a_bug_keeps_its_traceback(config, monkeypatch):
    import spectron.training.loop

    monkeypatch.setattr(spectron.training.loop, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", config, "--workdir", "W"])


DATA_CONFIG = """
from spectron.config import DataConfig, Experiment, MixtureConfig, TaskConfig
def experiment():
    tasks = (TaskConfig("lines", "manifest", root="{root}"), TaskConfig("gone", "manifest", root="nowhere.jsonl"))
    data = DataConfig(tasks=tasks, mixtures=(MixtureConfig("all", (("lines", 2.0),)),), prompt_seconds=0.2,
                      min_continuation_seconds=0.1, max_seconds=1.0, max_prompt_seconds=0.5)
    return Experiment("x", data, ())
"""


@pytest.fixture
def corpus(tmp_path):
    """Two recordings in a manifest, and a config that reads it."""
    records = []
    for i in range(2):
        soundfile.write(tmp_path / f"{i}.wav", tone(0.5 + 0.1 * i), RATE)
        records.append(json.dumps({"id": f"r{i}", "audio": f"{i}.wav", "text": f"line {i}", "speaker": "anna"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(records) + "\n")
    path = tmp_path / "data_config.py"
    path.write_text(DATA_CONFIG.format(root=tmp_path / "manifest.jsonl"))
    return str(path)


def test_data_commands(corpus, tmp_path, capsys):
    assert cli.main(["data", "list", "--config", corpus]) == 0
    listed = capsys.readouterr().out
    assert "lines: manifest, train, 2 examples" in listed and "gone: manifest, train, cannot be read" in listed
    assert "all: lines × 2" in listed
    assert cli.main(["data", "inspect", "lines", "--config", corpus, "--out", str(tmp_path / "heard")]) == 0
    shown = capsys.readouterr().out
    assert "r1 | anna | 0.60 s, prompt 0.20 s | line 1" in shown
    assert len(soundfile.read(tmp_path / "heard" / "lines-1.wav")[0]) == 0.6 * RATE
    assert cli.main(["data", "pack", "lines", "--config", corpus, "--out", str(tmp_path / "packed")]) == 0
    assert "2 examples" in capsys.readouterr().out
    packed = ["--set", f"data.packed={tmp_path / 'packed'}"]
    assert cli.main(["data", "inspect", "lines", "--config", corpus, *packed]) == 0
    assert capsys.readouterr().out == shown
    assert cli.main(["data", "pack", "lines", "--config", corpus, "--out", str(tmp_path / "packed")]) == 2
    one_sentence(capsys.readouterr().err, "exists already")
    assert cli.main(["data", "pack", "nothing", "--config", corpus, "--out", str(tmp_path / "other")]) == 2
    one_sentence(capsys.readouterr().err, "'nothing'")


def test_inspect_shows_what_a_task_loses_and_that_training_would_stop(corpus, capsys):
    less = ["--config", corpus, "--set", "data.max_seconds=0.55", "data.max_left_out=0.4"]
    assert cli.main(["data", "list", *less]) == 0
    assert "1 examples, 50.0 % left out, normaliser keep" in capsys.readouterr().out
    assert cli.main(["data", "inspect", "lines", *less]) == 2
    captured = capsys.readouterr()
    assert "r0 | anna" in captured.out
    assert (
        "Task 'lines' loses 50.0 % of its records" in captured.err and "1 longer than max_seconds (r1)" in captured.err
    )
    assert cli.main(["data", "inspect", "lines", *less, "data.max_left_out=0.5"]) == 0


def test_help_loads_nothing_heavy(run_python):
    code = (
        "import sys, contextlib, io\n"
        "from spectron.cli import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said: main(['--help'])\n"
        "assert all(c in said.getvalue() for c in ('train', 'generate', 'evaluate', 'data'))\n"
        "print(sorted({'jax', 'numpy', 'flax', 'PIL', 'librosa'} & set(sys.modules)))\n"
    )
    assert run_python(code).stdout.strip() == "[]"


@pytest.mark.parametrize("command", [[], ["sing"], ["evaluate", "nothing"], ["train"], ["generate", "x.wav"]])
def test_what_is_not_a_command_is_explained(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2 and "usage: spectron" in capsys.readouterr().err


def test_a_module_of_ones_own_is_imported_before_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_kinds.py").write_text("print('registered')\n")
    assert cli.main(["--import", "my_kinds", "data", "list", "--config", "nowhere.py"]) == 2
    out, error = capsys.readouterr()
    assert out == "registered\n"
    one_sentence(error, "nowhere.py")
    assert cli.main(["--import", "no_kinds", "data", "list", "--config", "nowhere.py"]) == 2
    one_sentence(capsys.readouterr().err, "--import no_kinds", "PYTHONPATH")
