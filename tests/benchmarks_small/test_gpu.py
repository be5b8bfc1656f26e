"""benchmarks/gpu.py at a tiny size on the CPU: all of it runs, and its figures fit each other."""

import json
import math
import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: it comes with the extra 'parity'")

from benchmarks import gpu, gpu_ours, gpu_tables

# Nearly all of the time is compilation, and nobody reads the speed; this is beside what conftest.py sets.
ONE_LAYER = ("model.encoder.num_layers=1", "model.lm.num_layers=1")
QUICK = {"JAX_DEFAULT_PRNG_IMPL": "unsafe_rbg"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What a small run printed and wrote."""
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [sys.executable, gpu.__file__, "--small", "--steps", "3", "--json", str(out)]
    command += ["--set", *ONE_LAYER]
    done = subprocess.run(command, env={**os.environ, **QUICK}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def numbers(node) -> list[float]:
    """All numbers below a node; a difference may be 0."""
    if isinstance(node, dict):
        return [x for key, child in node.items() if key != "differences" for x in numbers(child)]
    return [node] if isinstance(node, int | float) and not isinstance(node, bool) else []


@pytest.mark.slow
def test_every_part_is_measured_or_says_why_not(ran):
    printed, result = ran
    rows = {part: {row["name"]: row for row in result[part]} for part in ("check", "step", "torch", "decode")}
    skipped = {name: row["skipped"] for part in rows.values() for name, row in part.items() if "skipped" in row}
    assert skipped == {
        "attention=cudnn": "attention=cudnn needs an NVIDIA GPU",
        gpu.VARIANTS[0]: "attention=cudnn needs an NVIDIA GPU",
        "compile": "torch.compile is timed on a GPU only",
    }
    assert not [row for row in gpu_tables.rows_of(result) if "error" in row]
    for row in gpu_tables.rows_of(result):
        assert all(math.isfinite(x) and x > 0 for x in numbers(row)), row
    for row in (result["rates"], rows["step"][gpu.VARIANTS[1]], rows["torch"]["eager"], *rows["decode"].values()):
        assert len(numbers(row)) >= 5
    assert rows["torch"]["eager"]["loss"] == pytest.approx(rows["step"][gpu.VARIANTS[1]]["loss"], rel=0.2)
    for heading in ("matrix products", "| ours: remat=none", "| PyTorch: eager", "Decoding text", "Decoding frames"):
        assert heading in printed


@pytest.mark.slow
def test_shares_are_of_what_was_measured(ran):
    result = ran[1]
    limit = result["rates"]
    for row in (result["step"][1], result["torch"][1]):
        assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / limit["flops"])
        assert row["mfu_sheet"] is None  # of a CPU there is none
        assert row["positions_per_second"] == pytest.approx(row["positions"] / row["seconds"])
    assert limit["flops"] == max(limit["products"].values())
    for row in result["decode"]:
        for phase, seconds in row["seconds"].items():
            assert row["share"][phase] == pytest.approx(row["bytes"][phase] / seconds / limit["bandwidth"])
        assert min(row["bytes"].values()) > 0


def test_positions_and_weights_are_those_of_the_paper_model():
    experiment = gpu.experiment_of(gpu.parse([]))
    assert gpu_ours.positions(experiment) == 75 + 64 + 660
    assert experiment.stages[0].streams[0].batch_size == 16


def test_a_row_comes_from_a_process_of_its_own():
    row = gpu.child("rates", gpu.parse(["--small"]), "")
    assert row["flops"] > 0 and row["about"]["device"] == "cpu"
    row = gpu.child("rates", gpu.parse(["--small", "--limit", "0.01"]), "")
    assert row["error"] == "took more than 0.01 s"


def test_another_function_is_no_rounding():
    wanted = {"text": 2.0, "frames": 1.0, "gradient": 3.0}
    assert gpu_ours.compare(wanted, {"text": 2.02, "frames": 0.99, "gradient": 3.1})["agree"]
    for name, value in (("text", 2.1), ("frames", float("nan")), ("gradient", 3.2)):
        assert not gpu_ours.compare(wanted, {**wanted, name: value})["agree"], name


def test_a_row_that_failed_says_why_in_the_table():
    result = {"steps": 3, "step": [{"name": "remat=none", "error": "JaxRuntimeError: RESOURCE_EXHAUSTED"}]}
    gpu_tables.finish(result)
    assert "| ours: remat=none | JaxRuntimeError: RESOURCE_EXHAUSTED |" in gpu_tables.tables(result)


def test_a_misspelt_setting_is_named_before_anything_runs(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.parse(["--variant", "remat=none", "remta=full"])
    assert "remta" in capsys.readouterr().err
