"""`spectron compile`: the mesh and the batch that a step is compiled with, and what is printed of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spectron.compile.aot import OutOfMemory, analyse, known_chip, tpu_devices
from spectron.compile.meshes import Candidate, Choice, candidates, choice_table, choose
from spectron.compile.report import Report, table
from spectron.compile.variants import compare, comparison_table, fastest
from spectron.config import Experiment, check_settings
from spectron.cost.chips import Chip
from spectron.parallel import sharding
from spectron.types import UserError
from spectron.utils.files import write_text


def with_batch(experiment: Experiment, name: str, size: int) -> Experiment:
    """The experiment with `size` rows per step in the stage's first stream, the others in proportion."""
    stage = experiment.stage(name)
    first = stage.streams[0].batch_size
    streams = tuple(dataclasses.replace(s, batch_size=s.batch_size * size // first) for s in stage.streams)
    stages = tuple(dataclasses.replace(s, streams=streams) if s.name == name else s for s in experiment.stages)
    return dataclasses.replace(experiment, stages=stages)


def advice(experiment: Experiment, needed: float, chip: Chip, split: str) -> str:
    """How much memory is missing, and what to change. needed: bytes per chip, 0 if unknown. split: how to get fewer
    parameters on a chip."""
    model, ideas = experiment.model, []
    if model.remat != "full":
        ideas.append("set model.remat=full")
    if not model.logits_chunk:
        ideas.append("set model.logits_chunk=16")
    ideas += [split, "lower the batch size (--find-batch)", "raise accumulate"]
    missing = f"{needed / 2**30:.1f} GiB a chip are needed, " if needed else ""
    return f"{missing}a {chip.name} has {chip.memory / 2**30:.1f} GiB; {', '.join(ideas[:-1])} or {ideas[-1]}."


def largest_batch(fits: Callable[[int], bool], unit: int, start: int) -> int:
    """The largest multiple of `unit` that fits, by doubling from `start` and halving the gap; 0 if none does."""
    low, high = 0, max(start // unit, 1)
    while fits(high * unit):
        low, high = high, 2 * high
    while high - low > max(low // 16, 1):  # ours: within a sixteenth
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle)
    return low * unit


def command(
    experiment: Experiment,
    stage_name: str,
    topology: str,
    slices: int,
    mesh: str,
    find_batch: bool = False,
    compare_variants: bool = False,
    json_file: str | None = None,
) -> str:
    """What `spectron compile` prints. mesh: "fsdp=8,tensor=2"; "" for the experiment's, and if it has none, the fastest
    that fits. compare_variants: add a table of other kernels, rematerialisation and logits chunks on that mesh; the
    report is the best's. Raises UserError."""
    if mesh:
        experiment = dataclasses.replace(experiment, mesh=parse_mesh(mesh))
        check_settings(experiment)
    devices = tpu_devices(topology, slices)
    chip, choice, report, variants = known_chip(devices[0]), None, None, None

    def attempt(changed: Experiment) -> Report:
        return analyse(changed, changed.stage(stage_name), topology, slices)

    if not experiment.mesh:
        choice = choose_mesh(experiment, stage_name, len(devices), slices, chip, attempt)
        if choice.best is None and not find_batch:
            raise UserError(nearest_miss(experiment, choice, topology, slices, chip))
        report = choice.best
        taken = tuple(report.mesh.items()) if report else choice.nearest[0].mesh
        experiment = dataclasses.replace(experiment, mesh=taken)
    if find_batch:
        experiment = with_largest_batch(experiment, stage_name, devices, attempt)
        report = None
    if compare_variants:
        variants = compare(experiment, attempt)
        best = fastest(variants)
        report = best.report if best else None
    try:
        report = report or attempt(experiment)
    except OutOfMemory as error:
        split = "split the parameters over more chips (--mesh fsdp=N or tensor=N)"
        raise UserError(f"The step does not fit: {advice(experiment, error.needed, chip, split)}") from error
    if json_file:
        text = json.dumps(dataclasses.asdict(report) | {"bound": report.bound}, indent=1)
        write_text(Path(json_file), text + "\n")
    tables = [choice_table(choice)] if choice else []
    tables += [comparison_table(variants)] if variants else []
    return "\n\n".join([table(report), *tables])


def parse_mesh(mesh: str) -> tuple[tuple[str, int], ...]:
    """ "fsdp=8,tensor=2" → (("fsdp", 8), ("tensor", 2)). Raises UserError."""
    pairs = [pair.partition("=") for pair in mesh.split(",")]
    if not all(size.lstrip("-").isdigit() for _, _, size in pairs):
        raise UserError(f"--mesh {mesh!r} is not of the form fsdp=8,tensor=2.")
    return tuple((name.strip(), int(size)) for name, _, size in pairs)


def choose_mesh(
    experiment: Experiment,
    stage_name: str,
    chips: int,
    slices: int,
    chip: Chip,
    attempt: Callable[[Experiment], Report],
) -> Choice:
    """The fastest mesh that fits, and how the others did."""
    found = candidates(experiment, experiment.stage(stage_name), chips, slices, chip)

    def compile_with(candidate: Candidate) -> Report:
        return attempt(dataclasses.replace(experiment, mesh=candidate.mesh))

    return choose(found, chip.memory, compile_with)


def nearest_miss(experiment: Experiment, choice: Choice, topology: str, slices: int, chip: Chip) -> str:
    """The sentence for a step that fits on no mesh."""
    candidate, needed = choice.nearest
    where = f"{slices} x {topology}" if slices > 1 else topology
    told = advice(experiment, needed, chip, split="name a larger --topology")
    return f"The step fits on no mesh of {where}; the nearest miss is {candidate.name}: {told}"


def with_largest_batch(
    experiment: Experiment, stage_name: str, devices: list[Any], attempt: Callable[[Experiment], Report]
) -> Experiment:
    """The experiment with the largest batch that fits on its mesh. Raises UserError if not even the smallest does."""
    stage = experiment.stage(stage_name)
    unit = sharding.batch_shards(sharding.make_mesh(experiment.mesh, devices)) * stage.accumulate

    def fits(size: int) -> bool:
        try:
            attempt(with_batch(experiment, stage_name, size))
        except OutOfMemory:
            return False
        return True

    best = largest_batch(fits, unit, stage.streams[0].batch_size)
    if not best:
        raise UserError(f"Not even {unit} rows per step fit on {len(devices)} chips; split the parameters further.")
    return with_batch(experiment, stage_name, best)
