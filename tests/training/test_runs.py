"""The state of runs as their work folders tell it: no process of training is needed to read it."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from spectron.checkpoints.steps import META
from spectron.cli import main
from spectron.errors import UserError
from spectron.training.runs import PROCESS, ProcessFile, find_runs, read_run

STAGES = {"ctc": 300, "joint": 1200}


def checkpoint(stage, step):
    """A finished checkpoint, as far as its folder tells."""
    folder = stage / "checkpoints" / str(step)
    (folder / "params").mkdir(parents=True)
    (folder / META).parent.mkdir()
    stages = [{"name": name, "steps": steps} for name, steps in STAGES.items()]
    (folder / META).write_text(json.dumps({"step": step, "experiment": {"stages": stages}}))
    (folder / "_CHECKPOINT_METADATA").write_text("{}")


def metrics(stage, *records):
    stage.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "stage": stage.name, **values}) + "\n" for step, values in records]
    (stage / "metrics.jsonl").write_text("".join(lines) + '{"step": 9')


@pytest.fixture
def workdir(tmp_path):
    """A finished stage, and one that has a line beyond its newest checkpoint."""
    folder = tmp_path / "runs" / "mine"
    checkpoint(folder / "ctc", 300)
    metrics(folder / "ctc", (300, {"loss": 0.5, "ctc": 0.4, "grad_norm": 1.0}))
    checkpoint(folder / "joint", 500)
    metrics(
        folder / "joint",
        (500, {"loss": 2.0, "frames": 0.3}),
        (500, {"validation_log_perplexity": 1.5}),
        (550, {"loss": 1.0, "frames": 0.2}),
    )
    return folder


def test_steps_checkpoints_and_figures(workdir):
    with ProcessFile(workdir / "joint", STAGES, ["frames"], 500, write=True):
        ctc, joint = read_run(workdir)
    assert (ctc.name, ctc.step, ctc.steps, ctc.saved, ctc.state) == ("ctc", 300, 300, 300, "finished")
    assert ctc.figures == {"loss": 0.5}  # nothing says which its main metrics are
    assert (joint.step, joint.steps, joint.saved) == (550, 1200, 500)
    assert joint.figures == {"frames": 0.2, "validation_log_perplexity": 1.5}
    assert time.time() - joint.active < 60


def test_a_living_process_a_stopped_one_and_a_killed_one(workdir):
    def state():
        return read_run(workdir)[1].state

    assert state() == "unknown"
    process = ProcessFile(workdir / "joint", STAGES, ["frames"], 500, write=True)
    with process:
        assert state().startswith(f"running, pid {os.getpid()}, for ")
    assert state() == "stopped"
    code = (
        "import sys; from pathlib import Path; from spectron.training.runs import ProcessFile\n"
        "process = ProcessFile(Path(sys.argv[1]), {'ctc': 300, 'joint': 1200}, [], 0, write=True)\n"
        "process.__enter__(); print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(workdir / "joint")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "in\n"
        assert state().startswith(f"running, pid {child.pid}")
        child.kill()
    assert state() == f"gone, pid {child.pid}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_another_process_with_the_same_number_is_not_the_run(workdir):
    with ProcessFile(workdir / "joint", STAGES, [], 0, write=True):
        path = workdir / "joint" / PROCESS
        path.write_text(json.dumps(json.loads(path.read_text()) | {"clock_ticks": 1}))
        assert read_run(workdir)[1].state == f"gone, pid {os.getpid()}"


def test_of_another_host_only_the_last_write_is_known(workdir, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "pod-7")
        ProcessFile(workdir / "joint", STAGES, [], 0, write=True).__enter__()
    for path in (workdir / "joint").rglob("*"):
        os.utime(path, (time.time() - 120, time.time() - 120))
    assert read_run(workdir)[1].state == "last written 2 min 00 s ago on pod-7"


def test_the_newest_step_is_recorded_between_lines(workdir, monkeypatch):
    monkeypatch.setattr("spectron.training.runs.REFRESH_SECONDS", 0.0)
    with ProcessFile(workdir / "joint", STAGES, [], 500, write=True) as process:
        process.beat(577)
        assert read_run(workdir)[1].step == 577


def test_a_run_without_a_checkpoint_yet(tmp_path):
    (tmp_path / "ctc").mkdir()
    with ProcessFile(tmp_path / "ctc", STAGES, ["ctc"], 0, write=True):
        ctc, joint = read_run(tmp_path)
    assert (ctc.step, ctc.steps, ctc.saved) == (0, 300, 0) and ctc.state.startswith("running")
    assert (joint.name, joint.steps, joint.active, joint.state) == ("joint", 1200, 0.0, "not begun")


def test_only_one_host_writes(tmp_path):
    with ProcessFile(tmp_path, STAGES, [], 0, write=False) as process:
        process.beat(3)
    assert not list(tmp_path.iterdir())


def test_work_folders_are_found_in_folders_of_them(workdir, tmp_path):
    checkpoint(tmp_path / "runs" / "student" / "one" / "training" / "ctc", 10)
    found = find_runs(workdir.parent)
    assert list(found) == [workdir, tmp_path / "runs" / "student" / "one" / "training"]
    assert list(find_runs(workdir)) == [workdir]
    (stages,) = find_runs(workdir / "joint").values()
    assert [run.name for run in stages] == ["joint"]


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no runs in"):
        find_runs(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        find_runs(tmp_path / "none")


def test_the_command_prints_a_table(workdir, capsys):
    assert main(["runs", str(workdir.parent)]) == 0
    title, header, ctc, joint = capsys.readouterr().out.splitlines()
    assert title == str(workdir) and header.split()[:3] == ["stage", "step", "saved"]
    assert "300 / 300" in ctc and "finished" in ctc
    assert "550 / 1200" in joint and "loss 1" in joint and "unknown" in joint
    assert main(["runs", str(workdir.parent.parent / "none")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("spectron: ") and error.count("\n") == 1


def test_the_command_loads_nothing_heavy(workdir, run_python):
    code = (
        "import sys\nfrom spectron.cli import main\n"
        "assert main(['runs', sys.argv[1]]) == 0 and main(['runs', sys.argv[1] + '/none']) == 2\n"
        "print(sorted({'jax', 'numpy', 'flax', 'orbax', 'tqdm'} & set(sys.modules)))\n"
    )
    assert run_python(code, str(workdir)).stdout.splitlines()[-1] == "[]"
