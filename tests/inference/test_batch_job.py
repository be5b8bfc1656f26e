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

from spectron import cli
from spectron.audio import wav
from spectron.inference import batch_job
from spectron.inference.api import Spectron
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
    (answer,) = model.generate([recordings / "speaker 1" / "01.wav"], seed=0, numbers=[record["number"]], batch_size=4)
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

    monkeypatch.setattr(batch_job.wav, "write", full)
    assert run(checkpoint, tmp_path, recordings, "--no-pictures", "--batch-size", 4) == 2
    said = capsys.readouterr().err
    assert said.count("spectron: ") == 1 and "No space left" in said
    kept = content(tmp_path)
    assert 1 <= len(kept) < len(whole) and all(whole[name] == data for name, data in kept.items())
    monkeypatch.undo()
    assert run(checkpoint, tmp_path, recordings, "--no-pictures", "--batch-size", 4) == 0
    assert content(tmp_path) == whole


FULL = """
import resource, signal, sys
from spectron import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = int(sys.argv.pop())
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # what comes behind so many bytes finds no room
sys.exit(cli.main(["generate", "--checkpoint", *sys.argv[1:], "--no-pictures", "--batch-size", "4"]))
"""


def test_a_disk_that_fills_up_leaves_no_half_file(whole, checkpoint, recordings, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    most = max(map(len, whole.values())) - 1
    command = [sys.executable, "-c", FULL, checkpoint, recordings, "--out", tmp_path / "out", str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("spectron: ") == 1, done.stderr
    assert "Cannot write" in done.stderr and "Traceback" not in done.stderr
    made = content(tmp_path / "out")
    assert all(whole[name] == data for name, data in made.items()) and len(made) < len(whole)


def test_a_place_that_cannot_be_written_is_said_before_anything(checkpoint, recordings, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(checkpoint, tmp_path / "file" / "out", recordings) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_sampled_answers_record_their_sampler(checkpoint, recordings, tmp_path, capsys):
    recording, out = recordings / "speaker 0" / "00.wav", tmp_path / "out"
    assert run(checkpoint, out, recording, "--top-k", "3", "--temperature", "0.5") == 0
    record = json.loads((out / "00.json").read_text())
    assert record["sampler"] == {"name": "CategoricalSampler", "temperature": 0.5, "top_k": 3, "top_p": 1.0}
    assert record["vocoder"]["name"] == "GriffinLim" and record["max_lengths"]["text_tokens"] > 0
    assert run(checkpoint, out, recording, "--top-k", "3", "--temperature", "0.5") == 0
    assert "1 were there already" in capsys.readouterr().out
    assert run(checkpoint, out, recording) == 2
    assert "another sampler than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--prompt-seconds", "nan"), "nan does not suit this model: give 0.3 to 0.5"),
        (("--prompt-seconds", "3"), "3 does not suit"),
        (("--prompt-seconds", "-1"), "-1 does not suit"),
        (("--seed", "99999999999999999999"), "is out of range"),
        (("--temperature", "-1"), "temperature of -1"),
        (("--top-p", "2"), "top-p 2 is not a probability"),
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


def test_a_terminal_that_cannot_show_a_name(checkpoint, tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    soundfile.write(tmp_path / "x.wav", 0.1 * np.ones(5000), RATE)
    (tmp_path / "x.wav").rename(path)
    command = [
        sys.executable,
        "-m",
        "spectron",
        "generate",
        "--checkpoint",
        checkpoint,
        "--out",
        tmp_path / "out",
        path,
    ]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9.wav: " in done.stdout


def test_links_that_lead_nowhere_are_failures(checkpoint, tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    soundfile.write(root / "good.wav", 0.1 * np.ones(5000), RATE)
    (root / "gone.wav").symlink_to("nothing.wav")
    (root / "ring.wav").symlink_to("ring.wav")
    assert run(checkpoint, tmp_path / "out", root, "--no-pictures") == 3
    lines = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["gone", "ring"]
    assert capsys.readouterr().err.count("spectron: ") == 2 and (tmp_path / "out" / "good.json").exists()


@pytest.mark.parametrize(("letters", "code"), [(211, 0), (212, 3), (251, 3)])
def test_a_name_too_long_for_its_answer_costs_one_line(letters, code, checkpoint, tmp_path, capsys):
    root, name = tmp_path / "in", "n" * letters
    root.mkdir()
    soundfile.write(root / "a.wav", 0.1 * np.ones(5000), RATE)
    soundfile.write(root / f"{name}.wav", 0.1 * np.ones(5000), RATE)
    for _ in range(2):
        assert run(checkpoint, tmp_path / "out", root, "--pictures") == code
        assert ("more than 211 bytes" in capsys.readouterr().err) == (code == 3)
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == ({"a", name} if code == 0 else {"a"})


def test_bad_inputs_alone_are_told_too(checkpoint, recordings, tmp_path, capsys):
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    for stale in ("failures-00000-of-00007.jsonl", "failures_of_mine.jsonl"):
        (out / stale).write_text("")
    for name in ("a", "b", "c"):
        (root / f"{name}.wav").write_bytes(b"not audio")
    assert run(checkpoint, out, root) == 2
    said = capsys.readouterr().err
    assert said.count("spectron: ") == 1 and "All 3 inputs are bad" in said and "a.wav" in said
    assert {path.name for path in out.iterdir()} == {"failures.jsonl", "failures_of_mine.jsonl"}
    assert len((out / "failures.jsonl").read_text().splitlines()) == 3


def test_a_batch_that_does_not_fit_is_one_sentence(checkpoint, recordings, tmp_path, capsys):
    assert run(checkpoint, tmp_path / "out", recordings, "--batch-size", 10**10, "--no-pictures") == 2
    said = capsys.readouterr().err
    assert said.count("spectron: ") == 1 and "--batch-size 10000000000 does not fit" in said


def test_what_nobody_may_read_is_said(checkpoint, recordings, tmp_path, capsys):
    """Root may read everything, so it is somebody else for the time being."""
    private = tmp_path / "private"
    (private / "out").mkdir(parents=True)
    private.chmod(0)
    root = os.geteuid() == 0
    if root:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        codes = [
            run(checkpoint, private / "out", recordings),
            run(private / "run", tmp_path / "new", recordings),
            run(checkpoint, tmp_path / "new", private / "in"),
            run(checkpoint, tmp_path / "new", private),
        ]
    finally:
        if root:
            os.seteuid(0)
        private.chmod(0o700)
    said = capsys.readouterr().err.splitlines()
    assert codes == [2, 2, 2, 2] and len(said) == 4, said
    # With pytest's folders closed to everybody else, it is one of those that is named.
    assert all(line.startswith("spectron: ") and str(tmp_path.parents[2]) in line for line in said), said


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


@pytest.mark.slow
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
