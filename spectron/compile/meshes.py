"""The choice of a mesh for a training step where none is given: the fastest by its roofline of those that fit.

Compiling a large step takes minutes, so few meshes are compiled. The bytes of the train state on every mesh are exact
without compiling, and leave out most; an estimate of the time puts the others in order. The list of candidates, the
estimate and the number of compilations are ours.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectron.compile.aot import OutOfMemory, shard_bytes, templates
from spectron.compile.report import Report, roofline
from spectron.config import Experiment, StageConfig
from spectron.cost.chips import Chip
from spectron.data.buckets import longest_shape
from spectron.models.encoder import unit_statistics
from spectron.objectives import make_objectives
from spectron.objectives.base import step_flops
from spectron.parallel import sharding
from spectron.training.stage import check_buckets, check_stage
from spectron.training.step import init_params, make_program
from spectron.types import TrainState, UserError

log = logging.getLogger(__name__)

TENSOR_SIZES = (1, 2, 4, 8)  # ours: the neighbours of a chip; a wider axis sends more than it saves
MOST_COMPILED = 4  # ours: compilations after which the best one that fits is taken
FILLED = 0.9  # ours: state and gradients may take so much of the memory, before activations are known

Mesh = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A mesh, and what is known of it without compiling.

    state, gradients: bytes per chip, exact. seconds: an estimate of the step's roofline, good for an order only.
    """

    mesh: Mesh
    state: float
    gradients: float
    seconds: float

    @property
    def name(self) -> str:
        """The mesh as it is printed: "data 8, fsdp 2"."""
        return ", ".join(f"{axis} {size}" for axis, size in self.mesh) or "one device"

    @property
    def tensor(self) -> int:
        """The size of the tensor axis."""
        return dict(self.mesh).get("tensor", 1)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The outcome of a search. best: None if nothing fits.

    fitting: reports of the compiled meshes that fit, the fastest first. failed: (candidate, bytes per chip that it
    needs, 0 if unknown) of those that do not. too_large, untried: not compiled, because they are too large, or because
    they are not faster (the best is bound by compute) or probably not (by the estimate).
    """

    best: Report | None
    fitting: list[Report]
    failed: list[tuple[Candidate, float]]
    too_large: list[Candidate]
    untried: list[Candidate]

    @property
    def nearest(self) -> tuple[Candidate, float]:
        """The mesh that needs least memory, and how much; of what was not compiled, only state and gradients count."""
        known = [each for each in self.failed if each[1]]
        large = [(each, each.state + each.gradients) for each in self.too_large]
        return min(known or large or self.failed, key=lambda each: each[1])


def candidates(experiment: Experiment, stage: StageConfig, chips: int, slices: int, chip: Chip) -> list[Candidate]:
    """Every data × fsdp over the chips of a slice, with tensor parallelism where it divides what it splits.

    Slices lie along "replica". Raises UserError if the batch cannot be divided on any mesh.
    """
    statistics = unit_statistics(experiment)
    objectives = make_objectives(stage.streams, experiment, statistics)
    empty = templates(experiment, stage)
    rows = [jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), batch) for batch in empty]
    boxed = jax.eval_shape(lambda: init_params(objectives, rows, experiment.seed))
    shapes = [longest_shape(experiment.data, experiment.features, s.batch_size) for s in stage.streams]
    program, refused, found = None, [], []
    tensor_sizes = [size for size in TENSOR_SIZES if tensor_divides(experiment, boxed, size)]
    for mesh in meshes(chips // slices, slices, tensor_sizes):
        described: Any = sharding.abstract_mesh(mesh)
        try:
            check_stage(stage, described)
            check_buckets(experiment.data, experiment.features, stage, described)
        except UserError as error:
            refused.append(error)
            continue
        if program is None:  # its shapes are those of every mesh
            program = make_program(experiment, stage, statistics, rows, described)
            flops = step_flops(objectives, shapes, program.abstract.params)
        layout = sharding.shardings_like(program.abstract, sharding.param_shardings(boxed, described), described)
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), program.abstract, layout)
        sizes = {
            "parameters": shard_bytes(state.params),
            "frozen": shard_bytes(state.frozen),
            "optimizer": shard_bytes(state.opt_state),
            "average": shard_bytes(state.ema),
            "activations": 0.0,
        }
        seconds = roofline(flops, sizes, [], chip, chips, experiment.model.remat)
        within, across = estimated_bytes(experiment, stage, dict(mesh), state, flops.forward)
        seconds |= {"ici": within / chip.ici, "dcn": across / chip.dcn}
        found.append(Candidate(mesh, shard_bytes(state), sizes["parameters"], max(seconds.values())))
    if not found:
        raise refused[0]
    return found


def meshes(chips: int, slices: int, tensor_sizes: Sequence[int]) -> list[Mesh]:
    """The meshes of `slices` slices of `chips` chips each; axes of size 1 are left out, but for a single device."""
    found = []
    for tensor in (size for size in tensor_sizes if chips % size == 0):
        for fsdp in (size for size in range(1, chips // tensor + 1) if chips // tensor % size == 0):
            sizes = {"replica": slices, "data": chips // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}
            found.append(tuple((axis, size) for axis, size in sizes.items() if size > 1) or (("data", 1),))
    return found


def tensor_divides(experiment: Experiment, boxed: Any, size: int) -> bool:
    """Whether a tensor axis of this size splits all that the rules split over it, and whole attention heads.

    Else the chips of a tensor group would compute the same thing, which a roofline does not show.
    """
    parts = (experiment.model.lm, experiment.model.encoder)
    heads = [getattr(part, name, size) for part in parts for name in ("num_heads", "num_kv_heads")]
    return size == 1 or (all(number % size == 0 for number in heads) and sharding.axis_divides(boxed, "tensor", size))


def estimated_bytes(
    experiment: Experiment, stage: StageConfig, mesh: dict[str, int], state: TrainState, forward: float
) -> tuple[float, float]:
    """Bytes that a chip sends in a step, within its slice and to other slices: coarse, ours. forward: FLOPs.

    fsdp gathers the parameters in every pass and scatters the gradients, data and replica add up gradients; tensor
    adds up the hidden vectors twice a layer and pass, whose bytes are FLOPs / (6 width) in a Transformer's layer.
    """
    replica, data, fsdp, tensor = (mesh.get(axis, 1) for axis in sharding.AXES)
    passes = 3 if experiment.model.remat == "full" else 2
    trained, frozen = (sum(float(x.size) for x in jax.tree.leaves(each)) for each in (state.params, state.frozen))
    gathered = (
        passes * stage.accumulate * jnp.dtype(experiment.model.compute_dtype).itemsize * (trained + frozen) / tensor
    )
    gradients = 4.0 * trained / tensor  # float32
    within = (gathered + gradients) * (fsdp - 1) / fsdp + 2 * gradients / fsdp * (data - 1) / data
    hidden = forward / (replica * data * fsdp) / (6 * experiment.model.lm.dim)
    within += passes * hidden * 2 * (tensor - 1) / tensor
    return within, 2 * gradients / fsdp * (replica - 1) / replica


def choose(found: Sequence[Candidate], memory: float, attempt: Callable[[Candidate], Report]) -> Choice:
    """The fastest mesh that fits in `memory` bytes per chip, compiling as few as possible.

    attempt: compiles a step; raises OutOfMemory. A step that is bound by compute ends the search, for every mesh
    computes the same. What a compilation says about activations (by size of the tensor axis: they do not depend on the
    rest) tells which other meshes fit.
    """
    activations: dict[int, float] = {}
    waiting = sorted(found, key=lambda each: (each.seconds, each.state))
    fitting: list[Report] = []
    failed: list[tuple[Candidate, float]] = []

    def fits(each: Candidate) -> bool:
        known = activations.get(each.tensor)
        held = each.state + each.gradients
        return held <= FILLED * memory if known is None else held + known <= memory

    def compile_it(each: Candidate) -> None:
        waiting.remove(each)
        log.info(f"Compiling with {each.name} …")
        held = each.state + each.gradients
        try:
            report = attempt(each)
        except OutOfMemory as error:
            failed.append((each, error.needed))
            activations[each.tensor] = max(error.needed, memory + 1) - held
        else:
            fitting.append(report)
            activations[each.tensor] = max(report.bytes["peak"] - held, 0.0)

    while len(fitting) + len(failed) < MOST_COMPILED or not fitting:
        likely = next((each for each in waiting if fits(each)), None)
        if likely is None or (fitting and fitting[-1].bound == "compute"):
            break
        compile_it(likely)
    smallest = min(waiting, key=lambda each: each.state + each.gradients, default=None)
    if not fitting and smallest is not None and smallest.state <= memory:  # the last hope, and the nearest miss
        compile_it(smallest)
    fitting.sort(key=lambda report: sorted(report.seconds.values(), reverse=True))
    return Choice(
        best=fitting[0] if fitting else None,
        fitting=fitting,
        failed=failed,
        too_large=[each for each in waiting if not fits(each)],
        untried=[each for each in waiting if fits(each)],
    )


def choice_table(choice: Choice) -> str:
    """Which mesh was chosen, and how the others did, as Markdown."""
    giga = 2.0**30
    lines = ["| mesh (candidates: ours) | GiB per chip | roofline | |", "|---|---|---|---|"]
    for i, report in enumerate(choice.fitting):
        mesh = ", ".join(f"{axis} {size}" for axis, size in report.mesh.items()) or "one device"
        step = f"{report.seconds[report.bound] * 1e3:.1f} ms, {report.bound}"
        lines.append(f"| {mesh} | {report.bytes['peak'] / giga:.2f} | {step} | {'fits' if i else 'chosen'} |")
    for candidate, needed in choice.failed:
        size = f"{needed / giga:.2f}" if needed else "?"
        lines.append(f"| {candidate.name} | {size} | – | does not fit |")
    bound = choice.best is not None and choice.best.bound == "compute"
    later = "not compiled: no mesh needs less compute" if bound else "not compiled: slower by an estimate (ours)"
    for group, reason in ((choice.untried, later), (choice.too_large, "not compiled: too large")):
        if group:
            least = min(each.state + each.gradients for each in group) / giga
            lines.append(f"| {len(group)} more | {least:.2f} or more | – | {reason} |")
    return "\n".join(lines)
