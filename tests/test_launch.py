"""The launch scripts, run with a stand-in for Python; the pins; the project file."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("quickstart.sh", "test.sh", "check.sh")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [
    line for line in (ROOT / "launch/constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"
]

# Answers "do you suit?" with yes, makes a .venv of copies of itself, and writes everything else it is asked to a log.
STAND_IN = """#!/bin/bash
case "$1" in
  -c) exit 0 ;;
  -VV) echo Python; exit 0 ;;
esac
echo "$(basename "$0") $*" >>"$LOG"
if [[ "$1 $2" == "-m venv" ]]; then
  mkdir -p "${!#}/bin"
  for name in python spectron shellcheck; do cp "$0" "${!#}/bin/$name"; done
fi
if [[ "$1" == evaluate ]]; then touch runs/quickstart/report.html; fi
if [[ "$1" == train ]]; then mkdir -p runs/quickstart && date +%N >>runs/quickstart/trained; fi
if [[ -n "${FAIL_ON:-}" && "$*" == *"$FAIL_ON"* ]]; then exit 3; fi
exit 0
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the scripts touch, and a function that runs one of them from elsewhere."""
    repository = tmp_path / "a checkout"
    (repository / "elsewhere").mkdir(parents=True)
    shutil.copytree(ROOT / "launch", repository / "launch")
    shutil.copytree(ROOT / ".ci", repository / ".ci")
    shutil.copy(ROOT / "pyproject.toml", repository)
    stand_in = tmp_path / "python-stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    (tmp_path / "bin").mkdir()
    shutil.copy(stand_in, tmp_path / "bin" / "chromium")  # so that CI's script installs none
    log = tmp_path / "log"

    def launch(script: str, *arguments: str, code: int = 0, **environment: str) -> list[str]:
        log.write_text("")
        env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "PYTHON": str(stand_in), "LOG": str(log), **environment}
        done = subprocess.run(
            ["bash", str(repository / script), *arguments],
            cwd=repository / "elsewhere", env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        launch.stdout, launch.stderr = done.stdout, done.stderr
        return log.read_text().splitlines()

    launch.repository = repository
    return launch


def test_quickstart_installs_trains_and_evaluates_in_that_order(checkout):
    lines = checkout("launch/quickstart.sh")
    assert lines[0].endswith("-m venv --clear .venv")
    assert "--constraint launch/constraints.txt" in lines[2]
    assert "[eval,synth]" in lines[2]
    assert lines[3:] == [
        "spectron train configs/quickstart.py --workdir runs/quickstart",
        (
            "spectron evaluate counting --checkpoint runs/quickstart --out runs/quickstart --judges runs/judges "
            "--seeds 1 --limit 120 --write-prompts runs/quickstart/prompts"
        ),
        "spectron generate --checkpoint runs/quickstart --out runs/quickstart/answers runs/quickstart/prompts",
    ]
    assert f"{checkout.repository}/runs/quickstart/report.html" in checkout.stderr
    assert "spectron generate --checkpoint runs/quickstart" in checkout.stderr


def test_a_second_quickstart_installs_nothing_and_trains_again(checkout):
    checkout("launch/quickstart.sh")
    lines = checkout("launch/quickstart.sh", "--set", "seed=1")
    assert lines[0] == "spectron train configs/quickstart.py --workdir runs/quickstart --set seed=1"
    assert len(lines) == 3
    assert len((checkout.repository / "runs/quickstart/trained").read_text().split()) == 1  # the finished run is gone


def test_an_interrupted_quickstart_is_continued(checkout):
    checkout("launch/quickstart.sh", code=3, FAIL_ON="train configs")
    checkout("launch/quickstart.sh")
    assert len((checkout.repository / "runs/quickstart/trained").read_text().split()) == 2


def test_a_quickstart_interrupted_after_its_report_only_answers(checkout):
    checkout("launch/quickstart.sh", code=3, FAIL_ON="generate")
    checkout("launch/quickstart.sh")
    assert len((checkout.repository / "runs/quickstart/trained").read_text().split()) == 2  # train finds nothing to do


def test_a_failed_installation_is_tried_again(checkout):
    checkout("launch/test.sh", code=3, FAIL_ON="--constraint")
    assert any("--constraint" in line for line in checkout("launch/test.sh"))


def test_new_pins_install_again_and_new_extras_keep_the_old(checkout):
    checkout("launch/quickstart.sh")
    lines = checkout("launch/test.sh", "-k", "a or b")
    assert not any("-m venv" in line for line in lines)
    assert "[data,eval,synth,test]" in lines[0]
    assert lines[-1].endswith("-k a or b")
    assert len(checkout("launch/quickstart.sh")) == 3
    with (checkout.repository / "launch/constraints.txt").open("a") as file:
        file.write("another==1.0\n")
    assert any("-m venv" in line for line in checkout("launch/test.sh"))


def test_check_runs_everything_before_it_fails(checkout):
    lines = checkout("launch/check.sh", code=1, FAIL_ON="mypy")
    assert [line for line in lines if "shellcheck --external" in line]
    assert "-m pytest" in lines[-1]
    assert "Failed so far: mypy" in checkout.stderr
    checkout("launch/check.sh", code=3, FAIL_ON="pytest")
    assert "-m pytest" in checkout("launch/check.sh")[-1]


def test_slow_tests_wait_to_be_asked_for(checkout):
    assert checkout("launch/test.sh", "-x")[-1].endswith("worksteal -m not slow -x")
    assert checkout("launch/test.sh", "-x", "--all")[-1].endswith("worksteal -x")


def test_ci_leaves_nothing_out(checkout):
    lines = checkout(".ci/run")
    assert lines[-1].endswith("worksteal")
    assert any(all(extra in line for extra in ("parity", "beam", "hf", "tpu")) for line in lines)


@pytest.mark.parametrize("script", [f"launch/{name}" for name in SCRIPTS] + [".ci/run"])
def test_dry_run_prints_commands_and_does_nothing(checkout, script):
    before = sorted(checkout.repository.rglob("*"))
    assert checkout(script, "--dry-run") == []
    assert sorted(checkout.repository.rglob("*")) == before
    assert "-m venv" in checkout.stdout
    if "quickstart" in script:
        assert "spectron train configs/quickstart.py --workdir runs/quickstart\n" in checkout.stdout


# What a launcher is asked, and lines that its dry run prints.
TRAINING = ("configs/spectron_350m.py", "--workdir", "shared/a run")
QUOTED = "{} --workdir {}".format(TRAINING[0], TRAINING[2].replace(" ", r"\ "))
PODS = {
    "simulated_pod.sh": (
        ("--processes", "3", "--devices", "2", *TRAINING),
        (
            "JAX_NUM_PROCESSES=3 JAX_PROCESS_ID=2 XLA_FLAGS=--xla_force_host_platform_device_count=2",
            f"-m spectron train {TRAINING[0]} --workdir '{TRAINING[2]}'",
        ),
    ),
    "slurm_gpu.sh": (
        ("--nodes", "2", "--gpus", "4", "--sbatch", "--account=a --qos=b", *TRAINING),
        ("--nodes=2 --ntasks-per-node=4", "--signal=TERM@300 --requeue", "--account=a --qos=b", QUOTED),
    ),
    "tpu_vm.sh": (
        ("--name", "run", "--zone", "z", "--type", "v5litepod-256", "--slices", "2", "train", *TRAINING),
        ("spectron.tar.gz run-0:spectron.tar.gz --zone z --worker=all", "ssh run-1 --zone z --worker=all", QUOTED),
    ),
    "gke.sh": (
        ("--cluster", "c", "--zone", "z", "--type", "v5litepod-256", "--image", "i", "--slices", "2", *TRAINING),
        (
            "xpk workload create --workload spectron --cluster c --zone z --tpu-type v5litepod-256 --num-slices 2",
            QUOTED,
        ),
    ),
}


ANSWERING = ("--checkpoint", "c", "--out", "o", "a folder")
SAID = "--checkpoint c --out o {}"
CORPUS = {
    "slurm": (
        ("--slurm", "16", "--sbatch", "--account=a"),
        ("--array=0-15 --ntasks=1 --gpus=1 --requeue", "--account=a", r"a\ folder --part $SLURM_ARRAY_TASK_ID/16"),
    ),
    "tpu": (("--tpu", "n", "--zone", "z"), ("ssh n --zone z --worker=all", r"generate --distributed", r"o a\ folder")),
    "processes": (("--processes", "2"), tuple(SAID.format(f"'a folder' --part {i}/2") for i in range(2))),
}


@pytest.mark.parametrize("kind", CORPUS)
def test_batch_inference_is_shared_out(checkout, kind):
    arguments, wanted = CORPUS[kind]
    assert checkout("launch/generate.sh", "--dry-run", *arguments, *ANSWERING) == []
    for words in wanted:
        assert words in checkout.stdout, checkout.stdout
    for missing in ((), arguments, ("--slurm", "0", *ANSWERING), ("--tpu", "n", *ANSWERING), ANSWERING):
        checkout("launch/generate.sh", "--dry-run", *missing, code=2)
        assert checkout.stderr.strip().endswith(("says more.", "generate.")), checkout.stderr


def test_processes_share_a_corpus_and_the_first_failure_counts(checkout):
    said = checkout("launch/generate.sh", "--processes", "3", *ANSWERING)
    assert sorted(said) == [
        f"python-stand-in -m spectron generate --checkpoint c --out o a folder --part {i}/3" for i in range(3)
    ]
    checkout("launch/generate.sh", "--processes", "2", *ANSWERING, "b", code=3, FAIL_ON="b --part 1/2")


@pytest.mark.parametrize("name", PODS)
def test_pod_launchers_print_what_they_would_run(checkout, name):
    arguments, wanted = PODS[name]
    before = sorted(checkout.repository.rglob("*"))
    assert checkout(f"launch/{name}", "--dry-run", *arguments) == []
    assert sorted(checkout.repository.rglob("*")) == before
    for words in wanted:
        assert words in checkout.stdout, checkout.stdout


@pytest.mark.parametrize("name", PODS)
def test_pod_launchers_say_what_is_missing(checkout, name):
    checkout(f"launch/{name}", "--dry-run", code=2)
    assert checkout.stderr.strip().splitlines()[-1].endswith((".", "train."))
    checkout(f"launch/{name}", "--help")
    assert f"bash launch/{name}" in checkout.stdout


def test_a_queued_resource_is_asked_for_and_deleted(checkout):
    where = ("--dry-run", "--name", "run", "--zone", "z")
    checkout("launch/tpu_vm.sh", *where, "--type", "v5litepod-16", "--spot", "create")
    assert "queued-resources create run --zone z --accelerator-type v5litepod-16" in checkout.stdout
    assert "--node-id run --spot" in checkout.stdout
    checkout("launch/tpu_vm.sh", *where, "delete")
    assert "queued-resources delete run --zone z --force" in checkout.stdout


def test_the_simulated_pod_ends_with_the_code_of_the_process_that_failed(checkout):
    assert (
        checkout("launch/simulated_pod.sh", "--devices", "1", "train-a.py", "--workdir", "w")
        == ["python-stand-in -m spectron train train-a.py --workdir w"] * 2
    )
    checkout("launch/simulated_pod.sh", "b.py", code=3, FAIL_ON="b.py")


def test_the_image_installs_as_continuous_integration_does():
    text = (ROOT / "launch/Dockerfile").read_text(encoding="utf-8")
    common = (ROOT / "launch/common.sh").read_text(encoding="utf-8")
    for flag in ("--no-compile", "--prefer-binary", "--constraint launch/constraints.txt"):
        assert flag in text and flag in common


def test_a_python_that_does_not_suit_is_refused(checkout):
    checkout("launch/test.sh", code=2, PYTHON="/bin/false")
    assert "PYTHON=/bin/false" in checkout.stderr


@pytest.mark.parametrize("path", [*sorted((ROOT / "launch").glob("*.sh")), ROOT / ".ci/run"], ids=lambda p: p.name)
def test_scripts_stop_at_the_first_error_and_parse(path):
    text = path.read_text(encoding="utf-8")
    assert path.name == "common.sh" or "\nset -euo pipefail\n" in text
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_pins_are_exact_sorted_and_of_no_particular_index():
    names = [re.fullmatch(r"([A-Za-z0-9._-]+)==[0-9][0-9a-z.]*", line) for line in PINS]
    assert all(names), [line for line, match in zip(PINS, names, strict=True) if not match]
    keys = [match.group(1).lower().replace("_", "-") for match in names]
    assert keys == sorted(set(keys))


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for group in (PROJECT["dependencies"], *extras.values()) for text in group]


def test_every_dependency_has_a_floor_a_ceiling_and_a_pin_between_them():
    pins = {line.split("==")[0].lower().replace("_", "-"): Version(line.split("==")[1]) for line in PINS}
    for requirement in requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == {">=", "<"}, requirement
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), requirement


def test_the_extras_are_those_promised():
    expected = {"data", "tpu", "cuda", "beam", "hf", "eval", "synth", "test", "dev", "parity", "judges"}
    assert set(PROJECT["optional-dependencies"]) == expected
    assert PROJECT["scripts"] == {"spectron": "spectron.cli:main"}


def test_pytorch_stays_out_of_what_users_install():
    for name, group in [("core", PROJECT["dependencies"]), *PROJECT["optional-dependencies"].items()]:
        assert name == "parity" or not any(text.startswith("torch") for text in group)
