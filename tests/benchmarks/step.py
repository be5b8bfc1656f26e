"""One training step of the digits model (features, forward, backward, optimizer): ours against plain PyTorch.

    python tests/benchmarks/step.py [--rounds N] [--config FILE]

Ours is what `spectron train` runs; the twin is eager. Float32, the same batches of noise, the same number of threads,
all contenders in turn. Before anything is timed, their losses without dropout must agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

from benchmarks import timing, torch_training  # noqa: E402
from benchmarks.torch_twin import Twin  # noqa: E402

from spectron.config import AdamConfig, Experiment, JointConfig, StageConfig, load_experiment  # noqa: E402
from spectron.objectives import make_objective  # noqa: E402
from spectron.parallel import sharding  # noqa: E402
from spectron.training.step import make_program  # noqa: E402
from spectron.types import Batch  # noqa: E402

Batches = tuple[Batch, ...]


def joint_stage(experiment: Experiment, optimizer: str) -> StageConfig:
    """The joint stage from fresh parameters, with the optimizer of that name."""
    stage = experiment.stage("joint")
    config = stage.optimizer
    if optimizer != config.kind:  # Adam at Muon's learning rate diverges
        fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(AdamConfig)}
        config = AdamConfig(**fields | {"learning_rate": config.adam_learning_rate or config.learning_rate})
    return dataclasses.replace(stage, start_from=(), optimizer=config)


def ours(experiment: Experiment, optimizer: str, batches: Batches, twins: list[Twin]) -> Callable[[], None]:
    """Our step as train.py plans it, and the twins given its fresh parameters."""
    mesh = sharding.make_mesh(experiment.mesh)
    stage, statistics = joint_stage(experiment, optimizer), timing.speech_like(experiment)
    with jax.set_mesh(mesh):
        program = make_program(experiment, stage, statistics, batches, mesh)
        state = program.init()
        for twin in twins:
            twin.load_state_dict(torch_training.laid_out(state.params))
            check(experiment, state.params, batches, twin)
        began = time.perf_counter()
        state, metrics = program.step(state, program.put(batches))
        jax.block_until_ready((state, metrics))
    print(f"ours, {optimizer}: first step with compilation {time.perf_counter() - began:.0f} s", file=sys.stderr)

    def step() -> None:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = program.step(state, program.put(batches))
            jax.block_until_ready((state, metrics))

    return step


def check(experiment: Experiment, params: dict, batches: Batches, twin: Twin) -> None:
    """Stop unless both see the same losses in the same batch, dropout off."""
    objective = make_objective(experiment.stages[-1].streams[0].objective, experiment, timing.speech_like(experiment))
    loss = jax.jit(lambda params, batch: objective.loss(params, batch, jax.random.key(0), train=False).means())
    mine = jax.device_get(loss(params, batches[0]))
    with torch.no_grad():
        theirs = torch_training.joint_terms(twin.eval(), torch_training.to_torch(batches[0]))
    twin.train()
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=1e-3, err_msg=f"the twin is another model: {name}")


def theirs(experiment: Experiment, optimizer: str, batches: Batches, twin: Twin, muon: Callable) -> Callable[[], None]:
    """The twin's step."""
    step = torch_training.make_step(twin, joint_stage(experiment, optimizer), muon)
    return lambda: (step(*batches), None)[1]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--config", default=str(Path(__file__).resolve().parents[2] / "configs" / "digits.py"))
    arguments = parser.parse_args()
    cores = timing.use_all_cores()
    experiment = load_experiment(arguments.config)
    streams = experiment.stage("joint").streams
    batches = tuple(
        timing.noise_batch(experiment, s.batch_size, i, isinstance(s.objective, JointConfig))
        for i, s in enumerate(streams)
    )
    # torch.optim.Muon multiplies in bfloat16, which a CPU without such units emulates.
    plain, library = (
        torch_training.Muon,
        lambda params, lr: torch.optim.Muon(params, lr=lr, weight_decay=0.0),
    )
    contenders, baselines = {}, {}
    for optimizer, kinds in {
        "muon": {"PyTorch": plain, "PyTorch, torch.optim.Muon": library},
        "adam": {"PyTorch, Adam": plain},
    }.items():
        twins = [Twin(experiment, timing.speech_like(experiment)) for _ in kinds]
        name = "ours" if optimizer == "muon" else "ours, Adam"
        contenders[name] = ours(experiment, optimizer, batches, twins)
        for twin, (label, muon) in zip(twins, kinds.items(), strict=True):
            contenders[label] = theirs(experiment, optimizer, batches, twin, muon)
            baselines[label] = name
    found = timing.alternate(contenders, arguments.rounds)
    print(f"\nOne training step of {experiment.name!r}, {cores} threads, float32 (Muon unless named):\n")
    print(timing.table(found, baselines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
