"""Commands in odd surroundings: closed or full outputs, no home, a device that is not there, a port that is taken."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tiny_checkpoints

from spectron.audio import wav
from spectron.checkpoints.steps import META
from spectron.parallel import multihost
from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache
from spectron.utils.environment import cache_folder

COMMAND = [sys.executable, "-m", "spectron"]


@pytest.fixture
def run_folder(tmp_path):
    """A work folder that `spectron runs` can show."""
    step = tmp_path / "run" / "ctc" / "checkpoints" / "3"
    (step / "params").mkdir(parents=True)
    (step / META).parent.mkdir()
    (step / META).write_text(json.dumps({"step": 3, "experiment": {"stages": [{"name": "ctc", "steps": 3}]}}))
    (step / "_CHECKPOINT_METADATA").write_text("{}")
    return tmp_path / "run"


def shell(line, **changes):
    """A finished `bash -c`; in changes None removes a variable."""
    changed = {**os.environ, **changes}
    own = {name: value for name, value in changed.items() if value is not None}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=False, env=own)


def line(*words, then=""):
    return " ".join([*COMMAND, *map(str, words)]) + f" {then}"


def test_a_full_output_is_one_sentence(run_folder):
    done = shell(line("runs", run_folder, then="> /dev/full"))
    assert done.returncode == 2
    assert done.stderr == (
        "spectron: What the command prints cannot be written (No space left on device); "
        "free some space and run it again.\n"
    )


def test_a_reader_that_stops_ends_the_command_quietly(run_folder):
    done = shell(line("runs", run_folder, then='| true; echo "${PIPESTATUS[0]}"'))
    assert done.stdout.strip() in ("0", "141")  # 0: all was written before the reader ended
    assert done.stderr == ""
    done = shell(line("runs", run_folder, then='| head -1; echo "${PIPESTATUS[0]}"'))
    assert done.stdout.splitlines()[0] == str(run_folder)
    assert done.stderr == ""


def test_closed_errors_change_nothing(run_folder, tmp_path):
    assert shell(line("runs", run_folder, then="2>&-")).stdout.startswith(f"{run_folder}\n")
    done = shell(line("runs", tmp_path / "nowhere", then="2>&-"))
    assert done.returncode == 2 and done.stdout == ""


def test_a_user_without_a_home_gets_one_among_temporary_files(monkeypatch, tmp_path):
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    home = tmp_path / f"home-of-{os.getuid()}"
    assert cache_folder() == home / ".cache" / "spectron"
    assert home.is_dir() and os.environ["HOME"] == str(home)


def test_where_librosa_cannot_store_what_it_compiles_it_is_imported_all_the_same(tmp_path):
    code = "from spectron.utils.environment import load_librosa; print(load_librosa().__name__)"
    (tmp_path / "file").write_text("")
    changes = {"XDG_CACHE_HOME": str(tmp_path / "file"), "NUMBA_CACHE_DIR": None, "PYTHONPATH": os.getcwd()}
    done = shell(f'{sys.executable} -c "{code}"', **changes)
    assert (done.stdout, done.returncode) == ("librosa\n", 0), done.stderr


def test_other_rates_are_read_without_librosa(tmp_path, run_python):
    wav.write(tmp_path / "fast.wav", (np.sin(np.arange(44_100) / 9) * 9000).astype(np.int16), 44_100)
    code = (
        "import sys; sys.modules['librosa'] = None\nfrom spectron.audio import wav; print(len(wav.read(sys.argv[1])))"
    )
    assert run_python(code, str(tmp_path / "fast.wav")).stdout == "16000\n"


@pytest.mark.parametrize("command", ["generate", "export"])
def test_a_device_that_is_not_there_is_named_and_the_checkpoint_is_not_blamed(command, tmp_path):
    folder = tiny_checkpoints.save(tmp_path / "run", "spectron")
    wav.write(tmp_path / "p.wav", (np.sin(np.arange(8000) / 9) * 9000).astype(np.int16), 16_000)
    given = [tmp_path / "p.wav"] if command == "generate" else []
    done = shell(line(command, *given, "--checkpoint", folder, "--out", tmp_path / "out"), JAX_PLATFORMS="cuda")
    assert done.returncode == 2
    (sentence,) = [text for text in done.stderr.splitlines() if text.startswith("spectron: ")]
    assert "JAX finds no device to compute on" in sentence and "JAX_PLATFORMS is 'cuda'" in sentence
    assert "Traceback" not in done.stderr and str(folder) not in sentence


def test_64_bit_numbers_are_not_silently_used(tmp_path):
    folder = tiny_checkpoints.save(tmp_path / "run", "spectron")
    wav.write(tmp_path / "p.wav", (np.sin(np.arange(8000) / 9) * 9000).astype(np.int16), 16_000)
    command = line("generate", tmp_path / "p.wav", "--checkpoint", folder, "--out", tmp_path / "out")
    done = shell(command, JAX_ENABLE_X64="1")
    assert done.returncode == 0, done.stderr
    assert "JAX_ENABLE_X64 is ignored: spectron computes with 32-bit numbers." in done.stderr


def test_a_coordinators_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        given = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
        with pytest.raises(UserError, match=f"Port {port} of JAX_COORDINATOR_ADDRESS is in use on this machine"):
            multihost.connect(environment=given)
    given["JAX_COORDINATOR_ADDRESS"] = "localhost"
    with pytest.raises(UserError, match="has no port; write HOST:PORT"):
        multihost.connect(environment=given)


def test_a_damaged_chunk_is_made_again(tmp_path):
    for damage in (b"", b"[0", None):
        assert ChunkCache(tmp_path, {}).records(2, 2, lambda numbers: [[n] for n in numbers], "x") == [[0], [1]]
        path = tmp_path / "0000000"
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert ChunkCache(tmp_path, {}).records(2, 2, lambda numbers: [[n] for n in numbers], "x") == [[0], [1]]
