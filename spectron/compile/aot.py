"""Ahead-of-time compilation of a training step for a TPU that is not present: whether it fits, and what bounds it.

Memory is what libtpu's compiler reports for the real topology. FLOPs are counted by formula (cost/flops.py),
collectives are read from the compiled program; times are rooflines of data-sheet rates, not predictions.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

import jax
import numpy as np

from spectron.checkpoints.trees import merge
from spectron.compile.hlo_collectives import collectives
from spectron.compile.report import Report, recomputed, roofline, summary
from spectron.config import Experiment, StageConfig
from spectron.cost.chips import Chip, chip_of
from spectron.cost.flops import PARTS
from spectron.data.buckets import longest_shape
from spectron.data.fields import to_batch
from spectron.data.vocabulary import make_vocabulary
from spectron.models.encoder import unit_statistics
from spectron.objectives import make_objectives
from spectron.objectives.base import step_flops
from spectron.parallel import sharding
from spectron.training.stage import check_stage
from spectron.training.step import make_program
from spectron.types import Batch, UserError
from spectron.utils.console import Waiting

GENERATIONS = ("v4", "v5e", "v5p", "v6e")


class OutOfMemory(Exception):
    """The compiler found no way to fit the program; `needed`: bytes per chip, 0 if it gave no number."""

    def __init__(self, needed: float, message: str) -> None:
        super().__init__(message)
        self.needed = needed


def prepare() -> None:
    """Settings that libtpu reads when it is loaded: only its compiler is wanted."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no metadata server is asked
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is opened
    # libtpu complains at length if it cannot find out where it runs; what it compiles for is named by the topology.
    for name, value in (("ACCELERATOR_TYPE", "v5litepod-4"), ("WORKER_HOSTNAMES", "localhost"), ("WORKER_ID", "0")):
        os.environ.setdefault(f"TPU_{name}", value)


def tpu_devices(topology: str, slices: int = 1) -> list[Any]:
    """Device descriptions of a topology such as "v5e:4x4". Raises UserError for an unknown one."""
    generation, _, shape = topology.partition(":")
    if generation not in GENERATIONS or not re.fullmatch(r"\d+x\d+(x\d+)?", shape):
        raise UserError(
            f"--topology {topology!r} is unknown; give one such as v4:4x4x4, v5e:16x16, v5p:8x8x8, v6e:8x8."
        )
    if slices < 1:
        raise UserError(f"--slices {slices} makes no machine; give 1 or more.")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("Compiling for TPUs needs libtpu, which holds the compiler: pip install 'spectron-jax[tpu]'.")
    prepare()
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if slices > 1:
        options["num_slices"] = slices
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)  # a host of four is taken for granted
    try:
        return list(topologies.get_topology_desc(topology, "tpu", **options).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"--topology {topology!r}: libtpu knows no such machine: {first}") from error


def known_chip(device: Any) -> Chip:
    """The data sheet's figures of a device. Raises UserError if there are none."""
    chip = chip_of(device.device_kind)
    if chip is None:
        raise UserError(f"There are no figures for {device.device_kind!r}; add it to spectron/cost/chips.py.")
    return chip


def templates(experiment: Experiment, stage: StageConfig) -> tuple[Batch, ...]:
    """Batches of each stream's sizes without rows."""
    data, features = experiment.data, experiment.features
    vocabulary = make_vocabulary(data.vocabulary)
    objectives = make_objectives(stage.streams, experiment)
    return tuple(to_batch((), data, features, vocabulary, objective.text_only) for objective in objectives)


def lower(experiment: Experiment, stage: StageConfig, mesh: Any) -> tuple[Any, Any, tuple[Batch, ...]]:
    """(the lowered step, the abstract state, the abstract batches) of a stage on a mesh, real or described."""
    check_stage(stage, mesh)
    rows = templates(experiment, stage)
    statistics = unit_statistics(experiment)
    with jax.set_mesh(mesh):
        program = make_program(experiment, stage, statistics, rows, mesh)
        batches = tuple(
            sharding.batch_shapes(batch, stream.batch_size, mesh)
            for batch, stream in zip(rows, stage.streams, strict=True)
        )
        return program.step.lower(program.abstract, batches), program.abstract, batches


def compile_step(lowered: Any) -> Any:
    """The compiled step. Raises OutOfMemory."""
    try:
        with Waiting("compiling"):
            return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message and "out of memory" not in message.lower():
            raise
        raise OutOfMemory(_needed(message), message) from error


def _needed(message: str) -> float:
    used = re.search(r"[Uu]sed ([\d.]+)([KMGT]?) of", message)
    return float(used[1]) * 2 ** (10 * " KMGT".index(used[2] or " ")) if used else 0.0


def shard_bytes(tree: Any) -> float:
    """Bytes of a tree of abstract arrays on one device."""
    return float(
        sum(
            np.prod(x.sharding.shard_shape(x.shape), dtype=np.float64) * x.dtype.itemsize for x in jax.tree.leaves(tree)
        )
    )


def analyse(experiment: Experiment, stage: StageConfig, topology: str, slices: int = 1) -> Report:
    """Compile a stage's step for a topology and account for it. Raises OutOfMemory, or UserError."""
    devices = tpu_devices(topology, slices)
    mesh = sharding.make_mesh(experiment.mesh, devices)
    lowered, state, batches = lower(experiment, stage, mesh)
    compiled = compile_step(lowered)
    chip = known_chip(devices[0])
    memory = compiled.memory_analysis()
    sent = collectives(compiled.as_text(), tuple(mesh.shape.items()))
    shapes = [longest_shape(experiment.data, experiment.features, s.batch_size) for s in stage.streams]
    flops = step_flops(make_objectives(stage.streams, experiment), shapes, state.params)
    resident = shard_bytes(state)
    sizes = {
        "parameters": shard_bytes(state.params),
        "frozen": shard_bytes(state.frozen),
        "optimizer": shard_bytes(state.opt_state),
        "average": shard_bytes(state.ema),
        "batch": shard_bytes(batches),
        "activations": float(memory.temp_size_in_bytes),
        "peak": float(resident + shard_bytes(batches) + memory.temp_size_in_bytes),
        "memory": chip.memory,
    }
    return Report(
        config=experiment.name,
        stage=stage.name,
        topology=topology,
        slices=slices,
        chips=len(devices),
        mesh={name: size for name, size in mesh.shape.items() if size > 1},
        batch_size=sum(stream.batch_size for stream in stage.streams),
        speech_seconds=sum(
            batch.samples.shape[0] * batch.samples.shape[1] / experiment.features.sample_rate for batch in batches
        ),
        parameters={
            part: int(sum(np.prod(x.shape) for x in jax.tree.leaves(tree)))
            for part, tree in merge(state.params, state.frozen).items()
        },
        bytes=sizes,
        flops={
            **{part: flops.part(part) for part in PARTS},
            "step": flops.step,
            "recomputed": recomputed(flops, experiment.model.remat),
        },
        collectives=summary(sent),
        seconds=roofline(flops, sizes, sent, chip, len(devices), experiment.model.remat),
    )
