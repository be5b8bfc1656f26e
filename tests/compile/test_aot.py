"""Compiling ahead of time for TPUs that are not here; needs libtpu, which holds the compiler."""

import importlib.util
import json

import pytest

from spectron.cli import main
from spectron.compile import aot as ahead
from spectron.compile import command
from spectron.compile.hlo_collectives import Collective
from spectron.compile.report import roofline
from spectron.config import load_experiment
from spectron.cost.chips import Chip
from spectron.cost.flops import Flops, Product
from spectron.types import UserError

needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

CONFIG = """
from spectron.config import *

def experiment():
    data = DataConfig(vocabulary=SentencePieceConfig(size=4096), max_seconds=2.0, prompt_seconds=1.0,
        max_prompt_seconds=1.0, max_continuation_seconds=1.0, max_tokens=16)
    lm = LMConfig(tie_embeddings=True, attention="splash")
    features = FeatureConfig(dft="matmul")
    encoder = ConformerConfig(features=features, dim=128, num_layers=2, conv_channels=128)
    model = ModelConfig(encoder=encoder, lm=lm,
        compute_dtype="bfloat16", remat="full", logits_chunk=8)
    joint = StageConfig("joint", (StreamConfig(JointConfig(), "speech", 16),))
    return Experiment("small", data, (joint,), features, model)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return str(path)


@needs_libtpu
@pytest.mark.slow
def test_a_step_is_accounted_for(config, tmp_path, run_python):
    """In a process of its own: a test must not change what other tests find."""
    command = [
        "compile",
        config,
        "--topology",
        "v5e:2x2",
        "--slices",
        "2",
        "--mesh",
        "replica=2,fsdp=2,tensor=2",
        "--json",
        str(tmp_path / "r.json"),
    ]
    code = "import sys; from spectron.cli import main; sys.exit(main(sys.argv[1:]))"
    shown = run_python(code, *command).stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["chips"] == 8 and report["mesh"] == {"replica": 2, "fsdp": 2, "tensor": 2}
    assert 0 < report["bytes"]["peak"] < report["bytes"]["memory"]
    whole = 4 * sum(report["parameters"].values())
    assert whole / 4 <= report["bytes"]["parameters"] < whole / 2
    forward = sum(report["flops"][p] for p in ("encoder", "lm", "vocabulary", "frames"))
    assert 2.9 < report["flops"]["step"] / forward < 3  # the products that read data need no gradient of their input
    assert report["flops"]["recomputed"] == pytest.approx(forward)
    assert {axis for row in report["collectives"] for axis in row["axes"]} == {"replica", "fsdp", "tensor"}
    # Each slice has all gradients, a quarter a chip: in float32 or bfloat16, there and back, half of it each time.
    across = sum(row["sent"] for row in report["collectives"] if "replica" in row["axes"])
    assert 0.4 < across / report["bytes"]["parameters"] < 1.1
    assert report["bound"] == max(report["seconds"], key=report["seconds"].get)
    assert "| bound by |" in shown and "GiB" in shown


@needs_libtpu
@pytest.mark.slow
def test_what_does_not_fit_is_one_sentence(config, run_python):
    code = "import sys; from spectron.cli import main\nassert main(sys.argv[1:]) == 2; sys.exit(0)"
    done = run_python(
        code, "compile", config, "--topology", "v5e:2x2", "--mesh", "data=4",
        "--set", "stages.joint.streams.spectron.batch_size=400000",
    )  # fmt: skip
    told = done.stderr.strip().splitlines()[-1]
    assert told.startswith("spectron: The step does not fit") and "v5e" in told and "--find-batch" in told
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--topology", "v9:4x4"], "v9:4x4"),
        (["--topology", "v5e:many"], "v5e:many"),
        (["--topology", "v6e:1x1", "--mesh", "fsdp=2"], "exactly the 1 devices"),
        (["--topology", "v5e:2x2", "--mesh", "fsdp"], "is not of the form"),
        (["--topology", "v5e:2x2", "--stage", "none"], "no stage 'none'"),
    ],
)
def test_mistakes_are_one_sentence(config, capsys, arguments, words):
    if arguments[1][-1].isdigit() and "v9" not in arguments[1] and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed")
    assert main(["compile", config, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_without_libtpu_the_way_out_is_named(config, capsys, monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    assert main(["compile", config, "--topology", "v5e:2x2"]) == 2
    assert "pip install 'spectron-jax[tpu]'" in capsys.readouterr().err


def test_the_largest_batch_is_found_with_few_tries():
    tried = []

    def fits(size):
        tried.append(size)
        return size <= 1000

    best = command.largest_batch(fits, 8, 64)
    assert best % 8 == 0 and 940 <= best <= 1000
    assert len(tried) == len(set(tried)) < 12
    assert command.largest_batch(lambda size: False, 8, 64) == 0
    assert command.largest_batch(lambda size: size <= 16, 8, 64) == 16


def test_rooflines_by_hand():
    chip = Chip("toy", flops=100.0, memory=1.0, bandwidth=10.0, ici=5.0, dcn=1.0)
    flops = Flops((Product("encoder", 100.0, "encoder", ("encoder",)), Product("lm", 100.0, "lm", ("lm",))))
    near = Collective("all-gather", "a", "f32", (4,), 16, 4, ("fsdp",), 2)  # 2 x 16 x 3/4
    far = Collective("all-reduce", "b", "f32", (4,), 16, 2, ("replica",), 1)  # 2 x 16 x 1/2
    sizes = {"parameters": 4.0, "frozen": 1.0, "optimizer": 8.0, "average": 0.0, "activations": 4.0}
    found = roofline(flops, sizes, [near, far], chip, 2, "none")
    assert found == {"compute": 600 / 2 / 100, "memory": (24 + 8 + 2 + 8) / 10, "ici": 24 / 5, "dcn": 16 / 1}
    assert roofline(flops, sizes, [], chip, 2, "full")["compute"] == 800 / 2 / 100


def test_out_of_memory_names_what_to_change(config):
    experiment = command.with_batch(load_experiment(config), "joint", 64)
    assert experiment.stage("joint").streams[0].batch_size == 64
    error = ahead.OutOfMemory(ahead._needed("Used 20.5G of 15.75G hbm"), "")
    told = command.advice(experiment, error.needed, ahead.chip_of("TPU v5e"), split="take more chips")
    assert "20.5 GiB a chip are needed" in told and "14.9 GiB" in told
    assert "take more chips" in told and "remat" not in told
    with pytest.raises(UserError, match="makes no machine"):
        ahead.tpu_devices("v5e:2x2", 0)
