"""Batch inference: what is found, what is written, and that it goes on where it was killed."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_checkpoints

from spectron import cli, generate
from spectron.audio import wav
from spectron.inference import Spectron
from spectron.inputs import find_inputs
from spectron.types import UserError

RATE, ITEMS = 16_000, 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "spectron")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A tree of noise of many lengths."""
    root, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    for i in range(ITEMS):
        folder = root / f"speaker {i % 3}"
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"{i:02d}.wav", 0.1 * rng.standard_normal(rng.integers(4900, 8000)), RATE)
    return root


def run(checkpoint, out, *arguments):
    return cli.main(["generate", "--checkpoint", str(checkpoint), "--out", str(out), *map(str, arguments)])


def content(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def whole(checkpoint, recordings, tmp_path_factory):
    """All answers, made in one go."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(checkpoint, out, recordings, "--no-pictures", "--batch-size", 4) == 0
    return content(out)


def test_the_answers_lie_as_the_inputs_do(whole, recordings, checkpoint):
    names = {path.relative_to(recordings).with_suffix("").as_posix() for path in recordings.rglob("*.wav")}
    assert set(whole) == {f"{name}.{kind}" for name in names for kind in ("wav", "json")} and len(names) == ITEMS
    record = json.loads(whole["speaker 1/01.json"])
    model = Spectron.from_checkpoint(checkpoint)
    (answer,) = model.generate([recordings / "speaker 1" / "01.wav"], seed=0, rows=[record["number"]], batch_size=4)
    assert record["transcript"] == answer.transcript and record["frames"] == len(answer.frames)
    assert record["audio"].endswith("speaker 1/01.wav") and len(record["weights"]) == 64
    assert len({json.loads(text)["number"] for name, text in whole.items() if name.endswith("json")}) == ITEMS


def test_what_is_there_is_not_made_again(whole, checkpoint, recordings, tmp_path, capsys):
    out = tmp_path / "out"
    for name, data in whole.items():
        if not name.startswith("speaker 2/1"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    # What a killed writer leaves, and another process's work.
    (out / "speaker 2" / f".11.json.{'0' * 32}.part").write_bytes(b"{")
    (out / "speaker 2" / f".11.{'f' * 32}.wav").write_bytes(b"RIFF")
    other = out / "speaker 2" / f".other.json.{'0' * 32}.part"
    other.write_bytes(b"{")
    assert run(checkpoint, out, recordings, "--no-pictures", "--batch-size", 4) == 0
    other.unlink()
    assert content(out) == whole
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    kept = sum(path.suffix == ".json" for path in before)
    assert 0 < kept < ITEMS and f"{kept} were there already" in capsys.readouterr().out


def test_parts_make_the_whole(whole, checkpoint, recordings, tmp_path):
    for part in ("1/3", "0/3", "2/3"):
        assert run(checkpoint, tmp_path / "out", recordings, "--no-pictures", "--batch-size", 4, "--part", part) == 0
    assert content(tmp_path / "out") == whole


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({}, (0, 1)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2"}, (2, 4)),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1"}, (1, 3)),
    ],
)
def test_the_environment_says_which_part(environment, part):
    assert cli.generate._part_of(environment) == part


def test_a_process_without_a_number_is_refused():
    for number in ({}, {"JAX_PROCESS_ID": "7"}):
        with pytest.raises(UserError, match="JAX_PROCESS_ID and JAX_NUM_PROCESSES do not number"):
            cli.generate._part_of({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", **number})


@pytest.mark.parametrize("text", ["1", "2/2", "+1/2", "a/b", "/"])
def test_a_part_that_is_none_is_refused(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["generate", "--checkpoint", "c", "--out", "o", "x.wav", "--part", text])
    assert stopped.value.code == 2 and "must be written I/N" in capsys.readouterr().err


def test_one_bad_file_costs_one_line(whole, checkpoint, recordings, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio")
    command = [checkpoint, tmp_path / "out", recordings, bad, "--no-pictures", "--batch-size", "4"]
    assert run(*command) == 3
    said = capsys.readouterr()
    assert said.err.count("spectron: ") == 1 and "bad.wav" in said.err and "1 failed" in said.out
    made = content(tmp_path / "out")
    (failure,) = map(json.loads, made.pop("failures.jsonl").splitlines())
    assert (failure["name"], failure["audio"]) == ("bad", str(bad)) and "not audio" in failure["reason"]
    assert made == whole
    soundfile.write(bad, 0.1 * np.ones(5000), RATE)  # mended, and the line is gone
    assert run(*command) == 0 and "bad.json" in content(tmp_path / "out")
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_answers_of_another_model_or_seed_are_not_mixed(whole, checkpoint, recordings, tmp_path, capsys):
    for name, data in whole.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert run(checkpoint, tmp_path, recordings, "--seed", "1", "--batch-size", 4) == 2
    assert "another seed than 1" in capsys.readouterr().err
    other = tiny_checkpoints.save(tmp_path / "model", "spectron", seed=1)
    assert run(other, tmp_path, recordings, "--batch-size", 4) == 2
    assert "another weights" in capsys.readouterr().err
    assert run(checkpoint, tmp_path, recordings, "--batch-size", "5") == 2
    assert "another batch_size than 5" in capsys.readouterr().err
    (tmp_path / "speaker 1" / "01.json").write_text("{")
    assert run(checkpoint, tmp_path, recordings, "--batch-size", 4) == 2
    assert "01.json' cannot be read" in capsys.readouterr().err


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(whole, checkpoint, recordings, tmp_path, monkeypatch, capsys):
    real, count = wav.write, 0

    def full(path, samples, rate):
        nonlocal count
        count += 1
        if count > 9:
            raise UserError(f"Cannot write audio file {str(path)!r} (No space left on device); check the folder.")
        real(path, samples, rate)

    monkeypatch.setattr(generate.wav, "write", full)
    assert run(checkpoint, tmp_path, recordings, "--no-pictures", "--batch-size", 4) == 2
    said = capsys.readouterr().err
    assert said.count("spectron: ") == 1 and "No space left" in said
    kept = content(tmp_path)
    assert 1 <= len(kept) < len(whole) and all(whole[name] == data for name, data in kept.items())
    monkeypatch.undo()
    assert run(checkpoint, tmp_path, recordings, "--no-pictures", "--batch-size", 4) == 0
    assert content(tmp_path) == whole


def test_a_place_that_cannot_be_written_is_said_before_anything(checkpoint, recordings, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(checkpoint, tmp_path / "file" / "out", recordings) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--prompt-seconds", "nan"), "nan does not suit this model: give 0.3 to 0.5"),
        (("--prompt-seconds", "3"), "3 does not suit"),
        (("--prompt-seconds", "-1"), "-1 does not suit"),
        (("--seed", "99999999999999999999"), "is no seed"),
    ],
)
def test_settings_that_do_not_suit_are_said(flags, words, checkpoint, recordings, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "out", recordings, *flags) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_part_of_bad_files_is_told_like_any_other(checkpoint, recordings, tmp_path, capsys):
    good = recordings / "speaker 0" / "00.wav"
    bad = tmp_path / "zzz.wav"
    bad.write_bytes(b"not audio")
    command = (checkpoint, tmp_path / "out", good, bad, "--no-pictures", "--batch-size", 4)
    assert run(*command, "--part", "1/2") == 3
    assert "Part 1 of 2: 0 answers" in capsys.readouterr().out
    (line,) = (tmp_path / "out" / "failures-00001-of-00002.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "zzz"
    assert run(*command) == 3
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["failures.jsonl"]


def test_a_name_that_is_no_utf8(checkpoint, tmp_path):
    path = tmp_path / "in" / os.fsdecode(b"caf\xe9.wav")
    path.parent.mkdir()
    soundfile.write(tmp_path / "x.wav", 0.1 * np.ones(5000), RATE)
    (tmp_path / "x.wav").rename(path)
    assert run(checkpoint, tmp_path / "out", path.parent, "--no-pictures") == 0
    (record,) = (tmp_path / "out").glob("*.json")
    assert os.fsencode(record.stem) == b"caf\xe9" and json.loads(record.read_text())["audio"] == str(path)


def test_inputs_of_every_kind(tmp_path):
    for name in ("a/x.wav", "a/b/y.FLAC", "a/b/z.txt", "c/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    lines = [{"audio": "a/x.wav"}, {"audio": "c/x.wav", "id": "second"}, {"audio": "../out.wav"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def names(*given):
        return [each.name for each in find_inputs([str(tmp_path / name) for name in given], tmp_path / "out")]

    assert names("a") == ["b/y", "x"]
    assert names("**/x.wav") == ["a/x", "c/x"]
    assert names("a/x.wav", "a/b/y.FLAC") == ["x", "y"]
    assert names("m.jsonl") == ["a/x", "out", "second"]
    assert find_inputs([str(tmp_path / "m.jsonl")], "out")[2].path == tmp_path / "c" / "x.wav"
    assert names("a", "a", "a/x.wav") == ["b/y", "x"]
    for given, words in (
        (["a/x.wav", "c/x.wav"], "both be written as 'x'"),
        (["a/b/*.mp3"], "has no audio"),
        (["a", "c/x.wav"], "rename one"),
    ):
        with pytest.raises(UserError, match=words):
            names(*given)
    (tmp_path / "m.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(UserError, match='has no "audio"'):
        names("m.jsonl")
    with pytest.raises(UserError, match="empty string"):
        find_inputs([""], "out")


@pytest.mark.parametrize(
    ("given", "name"), [("a//b", "a/b"), ("c/", "c"), ("/d", "d"), ("../e", "e"), (0, "0"), (".", None), ("..", None)]
)
def test_an_id_stays_below_out(given, name, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "x.wav", "id": given}))
    if name is None:
        with pytest.raises(UserError, match=r"line 1, names .*no name"):
            find_inputs([str(tmp_path / "m.jsonl")], "out")
    else:
        assert [each.name for each in find_inputs([str(tmp_path / "m.jsonl")], "out")] == [name]


def test_answers_are_neither_heard_nor_put_in_place_of_recordings(tmp_path, monkeypatch):
    for name in ("x.wav", ".hidden.wav", "out/x.wav", "out/b/y.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [each.name for each in find_inputs([str(tmp_path)], tmp_path / "out")] == ["x"]
    assert [each.name for each in find_inputs([str(tmp_path / "**" / "*.wav")], tmp_path / "out")] == ["x"]
    monkeypatch.chdir(tmp_path)
    assert [each.name for each in find_inputs(["*.wav"], "out")] == ["x"]
    for given in (str(tmp_path), "x.wav", "*.wav"):
        with pytest.raises(UserError, match="choose another"):
            find_inputs([given], ".")


@pytest.mark.slow
def test_killed_three_times_at_random_it_ends_in_the_same_files(whole, checkpoint, recordings, tmp_path):
    """SIGKILL in the middle of the work; two processes at once in the end."""
    out, rng = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "spectron", "generate", "--checkpoint", checkpoint, "--out", out, recordings]
    command += ["--no-pictures", "--batch-size", "4"]
    seen: dict[Path, int] = {}
    for kill in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = rng.randrange(1, 7) + 6 * kill
        while process.poll() is None and len(list(out.rglob("*.json"))) < until:
            time.sleep(0.01)
        process.kill()
        process.wait()
        now = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
        assert all(now[path] == at for path, at in seen.items()), "an answer was made twice"
        seen = now
    assert 0 < len(seen) < ITEMS, "no kill came in the middle"
    last = [subprocess.Popen([*command, "--part", f"{i}/2"], stdout=subprocess.DEVNULL) for i in range(2)]
    assert [process.wait(300) for process in last] == [0, 0]
    assert all(path.stat().st_mtime_ns == at for path, at in seen.items()), "an answer was made twice"
    assert content(out) == whole


def test_several_devices_share_the_work(checkpoint, recordings, whole, tmp_path, run_python):
    code = (
        "import sys; from spectron import cli; import jax; assert jax.local_device_count() == 3\n"
        "sys.exit(cli.main(['generate', '--checkpoint', *sys.argv[1:], '--no-pictures', '--batch-size', '4']))"
    )
    run_python(code, str(checkpoint), "--out", str(tmp_path / "out"), str(recordings), devices=3)
    made = content(tmp_path / "out")
    assert set(made) == set(whole)
    texts = [[json.loads(each[n])["transcript"] for n in whole if n.endswith("json")] for each in (made, whole)]
    assert texts[0] == texts[1]
