"""Impossible settings, broken config files and places that cannot be written: each command refuses them at once."""

import os

import pytest

from spectron import cli

CONFIG = """
from spectron.config import *

def experiment():
    data = DataConfig(tasks=(TaskConfig("speech", "counting"),), max_tokens=8)
    streams = (StreamConfig(JointConfig(), "speech"),)
    return Experiment("x", data, (StageConfig("joint", streams),))

def loop():
    from spectron.config.noisy_student import GenerationConfig, LoopConfig, SplitConfig
    return LoopConfig("x", SplitConfig(), (GenerationConfig("teacher", experiment()),))
"""
COMMANDS = {
    "train": ["train", "CONFIG", "--workdir", "OUT"],
    "compile": ["compile", "CONFIG", "--topology", "v5e:2x2"],
    "noisy-student": ["noisy-student", "CONFIG", "--workdir", "OUT"],
    "data list": ["data", "list", "--config", "CONFIG"],
    "data inspect": ["data", "inspect", "speech", "--config", "CONFIG"],
    "data pack": ["data", "pack", "speech", "--config", "CONFIG", "--out", "OUT"],
    "data convert": ["data", "convert", "speech", "--config", "CONFIG", "--out", "OUT"],
    "data cut": ["data", "cut", "nowhere", "--out", "OUT"],
}
PLACES = {
    "train": (COMMANDS["train"], "--workdir"),
    "noisy-student": (COMMANDS["noisy-student"], "--workdir"),
    "compile": ([*COMMANDS["compile"], "--json", "OUT/report.json"], "--json"),
    "generate": (["generate", "--checkpoint", "nowhere", "x.wav", "--out", "OUT"], "--out"),
    "evaluate": (["evaluate", "counting", "--checkpoint", "nowhere", "--out", "OUT"], "--out"),
    "evaluate recognition": (
        ["evaluate", "recognition", "--recogniser", "nowhere", "--task", "x", "--out", "OUT"],
        "--out",
    ),
    "score": (["score", "wer", "--manifest", "nowhere.jsonl", "--out", "OUT"], "--out"),
    "export": (["export", "--checkpoint", "nowhere", "--out", "OUT"], "--out"),
    "import": (["import", "nowhere", "--out", "OUT"], "--out"),
    "data pack": (COMMANDS["data pack"], "--out"),
    "data convert": (COMMANDS["data convert"], "--out"),
    "data inspect": ([*COMMANDS["data inspect"], "--out", "OUT"], "--out"),
    "data cut": (COMMANDS["data cut"], "--out"),
    "data label": (["data", "label", "nowhere", "--recogniser", "nowhere", "--out", "OUT"], "--out"),
    "data write": (["data", "write", "nowhere", "--out", "OUT"], "--out"),
    "data report": (["data", "report", "nowhere", "--out", "OUT"], "--out"),
    "data fit-filter": (["data", "fit-filter", "nowhere", "--out", "OUT/filter.json"], "--out"),
}


@pytest.fixture
def run(tmp_path, capsys):
    """run(command, out) → the only line on stderr, for a command that must end with exit code 2."""
    config = tmp_path / "config.py"
    config.write_text(CONFIG)

    def run(command, out=None):
        words = {"CONFIG": str(config), "OUT": str(tmp_path / "out" if out is None else out)}
        command = [words.get(word, word.replace("OUT/", f"{words['OUT']}/")) for word in command]
        capsys.readouterr()
        assert cli.main(command) == 2
        said = capsys.readouterr()
        assert said.err.startswith("spectron: ") and said.err.count("\n") == 1 and said.err.endswith((".\n", "?\n"))
        assert not (tmp_path / "out").exists()
        return said.err

    run.config = config
    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_with_settings_checks_them_before_it_reads_anything(command, run):
    prefix = "generations.teacher.experiment." if command == "noisy-student" else ""
    if command == "data cut":
        assert "shard_megabytes=inf" in run([*COMMANDS[command], "--set", "shard_megabytes=1e400"])
        assert "min_seconds" in run([*COMMANDS[command], "--set", "cutting.min_seconds=99"])
        return
    said = run([*COMMANDS[command], "--set", f"{prefix}model.encoder.num_heads=5"])
    assert f"{prefix}model.encoder.num_heads=5 does not divide {prefix}model.encoder.dim=128" in said
    assert "did you mean bfloat16" in run([*COMMANDS[command], "--set", f"{prefix}model.compute_dtype=bf16"])
    assert "4294967295" in run([*COMMANDS[command], "--set", f"{prefix}seed={'9' * 20}"])
    run.config.write_text(CONFIG.replace("max_tokens=8", "max_tokens=8 // 0"))
    assert "config.py" in (said := run(COMMANDS[command])) and "line 5: ZeroDivisionError" in said


def test_compile_checks_the_mesh_that_it_is_given(run):
    assert "did you mean tensor" in run([*COMMANDS["compile"], "--mesh", "tenser=4"])
    assert "twice" in run([*COMMANDS["compile"], "--mesh", "data=2,data=2"])


@pytest.mark.parametrize("command", ["train", "compile"])
def test_an_experiment_without_stages_has_nothing_to_do(command, run):
    run.config.write_text(CONFIG.replace('(StageConfig("joint", streams),)', "()"))
    assert "has no stages" in run(COMMANDS[command])


@pytest.mark.parametrize("command", PLACES)
def test_a_place_that_cannot_be_written_is_one_sentence_before_anything_is_computed(command, run, tmp_path):
    arguments, flag = PLACES[command]
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    below_file = any(word.startswith("OUT/") for word in arguments)
    for out, reason in {
        "/proc/nope": "cannot be written",
        tmp_path / "file" / "below": "is not a folder",
        tmp_path / "file": "is not a folder",
        tmp_path / "a" / ("x" * 300) / "b": "cannot be written (File name too long)",
        tmp_path / ("y/" * 3000): "cannot be written (File name too long)",
        tmp_path / "link": "is a broken link",
        "a\0b": "is not the name of a",
        "ftp://bucket/run": "is an address",
        **({} if below_file else {"": "is not the name of a folder"}),
    }.items():
        said = run(arguments, out)
        assert flag in said and reason in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py", "file", "link"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_sentence(run, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot be written (Permission denied)" in run(COMMANDS["train"], tmp_path / "closed" / "run")


@pytest.mark.parametrize("name", ["", ".", "x" * 300])
def test_a_file_that_cannot_be_written_is_one_sentence(name, run, tmp_path):
    for command, flag in (("compile", "--json"), ("data fit-filter", "--out")):
        arguments = [tmp_path / name if word.startswith("OUT/") and name else word for word in PLACES[command][0]]
        arguments = ["" if str(word).startswith("OUT/") else str(word) for word in arguments]
        assert flag in run(arguments)
