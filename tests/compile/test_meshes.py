"""Which mesh `spectron compile` chooses, with a stand-in for the compiler; one real compilation is slow."""

import dataclasses
import importlib.util
import json

import pytest
from tiny_run import experiment

from spectron.compile import command
from spectron.compile.aot import OutOfMemory
from spectron.compile.meshes import Candidate, candidates, choice_table, choose, meshes
from spectron.compile.report import Report
from spectron.cost.chips import chip_of
from spectron.types import UserError

GIB = 2.0**30
MEMORY = 16 * GIB
STATE = 12 * GIB  # of the whole model


def candidate(data, fsdp, seconds=1.0, tensor=1):
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    state = STATE / fsdp / tensor
    return Candidate(tuple((a, n) for a, n in sizes.items() if n > 1), state, state / 3, seconds)


def report(each, peak, **seconds):
    """The report of a compiled candidate."""
    return Report(
        config="c", stage="s", topology="t", slices=1, chips=16, mesh=dict(each.mesh), batch_size=16,
        speech_seconds=1.0, parameters={}, bytes={"peak": peak, "memory": MEMORY}, flops={}, collectives=[],
        seconds={"compute": 0.1, "memory": 0.0, "ici": 0.0, "dcn": 0.0, **seconds},
    )  # fmt: skip


class Compiler:
    """A step whose activations take so many bytes; ici: mesh name → seconds of the network."""

    def __init__(self, activations, ici=None, tells=True):
        self.activations, self.ici, self.tells = activations, ici or {}, tells
        self.compiled = []

    def __call__(self, each):
        self.compiled.append(each.name)
        peak = each.state + each.gradients + self.activations
        if peak > MEMORY:
            raise OutOfMemory(peak if self.tells else 0.0, "")
        return report(each, peak, ici=self.ici.get(each.name, 0.0))


def test_every_split_of_a_slice_is_a_candidate():
    assert meshes(4, 1, [1]) == [(("data", 4),), (("data", 2), ("fsdp", 2)), (("fsdp", 4),)]
    two = meshes(4, 2, [1, 2])
    assert (("replica", 2), ("fsdp", 2), ("tensor", 2)) in two and len(two) == 5
    assert all(dict(mesh)["replica"] == 2 for mesh in two)
    assert meshes(1, 1, [1, 2]) == [(("data", 1),)]


def test_what_compute_bounds_ends_the_search():
    compiler = Compiler(1 * GIB)
    choice = choose([candidate(8, 2), candidate(4, 4), candidate(1, 16, seconds=0.5)], MEMORY, compiler)
    assert compiler.compiled == ["fsdp 16"] and choice.best.mesh == {"fsdp": 16}
    shown = choice_table(choice)
    assert "| fsdp 16 | 2.00 | 100.0 ms, compute | chosen |" in shown
    assert "| 2 more | 4.00 or more | – | not compiled: no mesh needs less compute |" in shown


def test_the_fastest_of_those_that_the_network_bounds():
    ici = {"data 8, fsdp 2": 0.4, "data 4, fsdp 4": 0.3, "data 2, fsdp 8": 0.5, "fsdp 16": 0.6}
    compiler = Compiler(1 * GIB, ici)
    all_of_them = [candidate(16 // n, n, seconds=n) for n in (1, 2, 4, 8, 16)]
    choice = choose(all_of_them, MEMORY, compiler)
    assert compiler.compiled == ["data 8, fsdp 2", "data 4, fsdp 4", "data 2, fsdp 8", "fsdp 16"]
    assert choice.best.mesh == {"data": 4, "fsdp": 4}
    assert [each.name for each in choice.too_large] == ["data 16"]  # state and gradients alone fill the chip


@pytest.mark.parametrize("tells", [True, False])
def test_a_step_that_does_not_fit_leaves_out_the_larger_ones(tells):
    compiler = Compiler(13 * GIB, tells=tells)  # 16 / fsdp + 13 <= 16: from 8 on
    all_of_them = [candidate(16 // n, n, seconds=n) for n in (1, 2, 4, 8, 16)]
    choice = choose(all_of_them, MEMORY, compiler)
    assert choice.best.mesh == {"data": 2, "fsdp": 8}
    assert compiler.compiled[0] == "data 8, fsdp 2" and len(compiler.compiled) == (2 if tells else 3)
    assert "| data 8, fsdp 2 | 21.00 |" in choice_table(choice) or not tells


def test_where_nothing_fits_the_nearest_miss_is_known():
    compiler = Compiler(20 * GIB)
    choice = choose([candidate(16 // n, n, seconds=n) for n in (1, 2, 4, 8, 16)], MEMORY, compiler)
    assert choice.best is None
    nearest, needed = choice.nearest
    assert nearest.name == "fsdp 16" and needed == 21 * GIB and len(compiler.compiled) == 2


def test_a_state_that_cannot_fit_is_not_compiled():
    compiler = Compiler(0)
    large = [
        dataclasses.replace(candidate(16, 1), state=30 * GIB),
        dataclasses.replace(candidate(8, 2), state=20 * GIB),
    ]
    choice = choose(large, MEMORY, compiler)
    assert choice.best is None and not compiler.compiled
    assert choice.nearest[0].name == "data 8, fsdp 2"


def test_candidates_know_their_bytes_and_divide_the_batch():
    config = experiment("stages.joint.start_from=[]")
    found = candidates(config, config.stage("joint"), 8, 1, chip_of("TPU v5e"))  # 8 rows, one key-value head
    assert [each.name for each in found] == ["data 8", "data 4, fsdp 2", "data 2, fsdp 4", "fsdp 8"]
    states = [each.state for each in found]
    assert states == sorted(states, reverse=True) and states[0] > 3 * found[0].gradients > 0
    two_heads = experiment("stages.joint.start_from=[]", "model.lm.num_kv_heads=2")
    names = [each.name for each in candidates(two_heads, two_heads.stage("joint"), 8, 1, chip_of("TPU v5e"))]
    assert "data 4, tensor 2" in names and not any("tensor 4" in name for name in names)
    with pytest.raises(UserError, match="batch_size 8 must be a multiple of 16"):
        candidates(config, config.stage("joint"), 16, 1, chip_of("TPU v5e"))


@pytest.fixture
def compiler(monkeypatch):
    """`spectron compile` without libtpu: sixteen chips of a v5e, and Compiler's steps."""
    made = Compiler(1 * GIB)
    chip = chip_of("TPU v5e")
    found = [candidate(16 // n, n, seconds=n) for n in (1, 2, 4, 8, 16)]
    monkeypatch.setattr(command, "tpu_devices", lambda topology, slices: [None] * 16)
    monkeypatch.setattr(command, "known_chip", lambda device: dataclasses.replace(chip, memory=MEMORY))
    monkeypatch.setattr(command, "candidates", lambda *_: found)
    monkeypatch.setattr(command, "table", lambda report: f"compiled for {report.mesh}")

    def analyse(experiment, stage, topology, slices):
        return made(next(each for each in found if each.mesh == experiment.mesh))

    monkeypatch.setattr(command, "analyse", analyse)
    return made


def test_the_command_says_which_mesh_it_took(compiler, tmp_path):
    file = tmp_path / "r.json"
    shown = command.command(experiment(), "joint", "v5e:4x4", 1, "", json_file=str(file))
    assert shown.startswith("compiled for {'data': 8, 'fsdp': 2}") and "| data 8, fsdp 2 | 9.00 |" in shown
    assert json.loads(file.read_text())["mesh"] == {"data": 8, "fsdp": 2}
    assert compiler.compiled == ["data 8, fsdp 2"]  # once


def test_a_given_mesh_is_taken(compiler):
    shown = command.command(experiment(), "joint", "v5e:4x4", 1, "fsdp=16")
    assert shown == "compiled for {'fsdp': 16}" and compiler.compiled == ["fsdp 16"]
    config = dataclasses.replace(experiment(), mesh=(("data", 4), ("fsdp", 4)))
    assert "'fsdp': 4" in command.command(config, "joint", "v5e:4x4", 1, "")


def test_the_command_names_the_nearest_miss(compiler):
    compiler.activations = 20 * GIB
    with pytest.raises(UserError) as raised:
        command.command(experiment(), "joint", "v5e:4x4", 1, "")
    told = str(raised.value)
    assert told.startswith(
        "The step fits on no mesh of v5e:4x4; the nearest miss is fsdp 16: 21.0 GiB a chip are needed"
    )
    assert "a v5e has 16.0 GiB" in told and "larger --topology" in told and told.endswith(".")


CONFIG = """
from spectron.config import *

def experiment():
    data = DataConfig(vocabulary=SentencePieceConfig(size=4096), max_seconds=2.0, prompt_seconds=1.0,
        max_prompt_seconds=1.0, max_continuation_seconds=1.0, max_tokens=16)
    features = FeatureConfig(dft="matmul")
    encoder = ConformerConfig(features=features, dim=96, num_layers=1, conv_channels=96)
    lm = LMConfig(dim=96, num_layers=1, num_heads=3, num_kv_heads=3, ff_dim=96, tie_embeddings=True)  # no tensor axis
    model = ModelConfig(encoder=encoder, lm=lm, compute_dtype="bfloat16", remat="full")
    joint = StageConfig("joint", (StreamConfig(JointConfig(), "speech", 16),))
    return Experiment("small", data, (joint,), features, model)
"""


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.slow
def test_a_real_step_gets_a_mesh(tmp_path, run_python):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    code = "import sys; from spectron.cli import main; sys.exit(main(sys.argv[1:]))"
    done = run_python(
        code, "compile", str(path), "--topology", "v5e:2x2", "--json", str(tmp_path / "r.json"), timeout=1200
    )
    found = json.loads((tmp_path / "r.json").read_text())
    product = 1
    for size in found["mesh"].values():
        product *= size
    assert product == 4 and "| chosen |" in done.stdout and "Compiling with" in done.stderr
