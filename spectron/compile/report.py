"""The report of a compiled step: bytes, FLOPs, collectives and rooflines, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from spectron.compile.hlo_collectives import Collective
from spectron.cost.chips import Chip
from spectron.cost.flops import PARTS, Flops


@dataclasses.dataclass(frozen=True)
class Report:
    """What a step needs. Bytes and collectives are of one chip; flops of the whole step; seconds are rooflines."""

    config: str
    stage: str
    topology: str
    slices: int
    chips: int
    mesh: dict[str, int]
    batch_size: int
    speech_seconds: float  # at most, in one step
    parameters: dict[str, int]
    bytes: dict[str, float]
    flops: dict[str, float]
    collectives: list[dict[str, Any]]
    seconds: dict[str, float]

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])


def summary(collectives: Sequence[Collective]) -> list[dict[str, Any]]:
    """Collectives of one kind over the same axes together: how many run, and the bytes that each chip sends."""
    rows: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for each in collectives:
        row = rows.setdefault(
            (each.kind, each.axes), {"kind": each.kind, "axes": list(each.axes), "count": 0, "sent": 0.0}
        )
        row["count"] += each.times
        row["sent"] += each.sent
    return sorted(rows.values(), key=lambda row: -row["sent"])


def recomputed(flops: Flops, remat: str) -> float:
    """FLOPs of the forward pass that full rematerialisation computes again; "dots" keeps every matrix product."""
    return flops.forward if remat == "full" else 0.0


def roofline(
    flops: Flops, sizes: dict[str, float], collectives: Sequence[Collective], chip: Chip, chips: int, remat: str
) -> dict[str, float]:
    """Seconds that each resource alone would take at its data-sheet rate.

    compute: model FLOPs, and the forward pass again under full rematerialisation. memory: at least the state read and
    written once, the parameters read once more each way and the activations written and read. ici and dcn: bytes sent.
    """
    state = sizes["parameters"] + sizes["optimizer"] + sizes["average"]
    moved = 2 * state + 2 * (sizes["parameters"] + sizes["frozen"]) + 2 * sizes["activations"]
    across = sum(each.sent for each in collectives if "replica" in each.axes)
    return {
        "compute": (flops.step + recomputed(flops, remat)) / chips / chip.flops,
        "memory": moved / chip.bandwidth,
        "ici": sum(each.sent for each in collectives if "replica" not in each.axes) / chip.ici,
        "dcn": across / chip.dcn,
    }


def table(report: Report) -> str:
    """The report as Markdown."""
    size, giga = report.bytes, 2.0**30
    mesh = ", ".join(f"{name} {n}" for name, n in report.mesh.items()) or "one device"
    where = f"{report.slices} x {report.topology}" if report.slices > 1 else report.topology
    rows = [
        ("chips", f"{report.chips} ({where}; {mesh})"),
        ("batch", f"{report.batch_size} rows, at most {report.speech_seconds:,.0f} s of speech"),
        *(("parameters, " + part, f"{count / 1e6:,.1f} M") for part, count in report.parameters.items()),
        ("parameters, all", f"{sum(report.parameters.values()) / 1e6:,.1f} M"),
        *((f"{name}, per chip", f"{size[name] / giga:.2f} GiB") for name in ("parameters", "optimizer", "average")),
        *([("frozen parameters, per chip", f"{size['frozen'] / giga:.2f} GiB")] if size["frozen"] else []),
        ("activations and scratch, per chip", f"{size['activations'] / giga:.2f} GiB"),
        ("peak, per chip", f"{size['peak'] / giga:.2f} of {size['memory'] / giga:.2f} GiB"),
        *((f"forward FLOPs, {part}", f"{report.flops[part]:.3g}") for part in PARTS),
        ("FLOPs per step", f"{report.flops['step']:.4g}"),
        *(
            (
                f"{row['kind']} over {'+'.join(row['axes']) or 'nothing'}",
                f"{row['count']} times, {row['sent'] / 1e6:,.1f} MB sent per chip",
            )
            for row in report.collectives
        ),
        *((f"roofline, {name}", f"{seconds * 1e3:.1f} ms") for name, seconds in report.seconds.items()),
        ("bound by", report.bound),
    ]
    title = f"{report.config}, stage {report.stage}"
    return "\n".join([f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
