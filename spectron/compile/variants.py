"""Settings that change how a training step is computed and not what: which of them is best for a topology.

They are the kernel of attention, rematerialisation, and how many positions' logits exist at once. One is varied at a
time, the best value is kept for the next; the order and the values are ours.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from spectron.compile.aot import OutOfMemory
from spectron.compile.report import Report
from spectron.config import Experiment, override
from spectron.utils.console import duration

log = logging.getLogger(__name__)

# First what changes memory and time most.
SETTINGS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("model.remat", ("full", "dots", "none")),
    ("model.lm.attention", ("plain", "splash")),
    ("model.logits_chunk", (16, 128, 0)),
)
ALIKE = 1.01  # ours: of steps whose rooflines differ by less, the one with less memory is better


@dataclasses.dataclass(frozen=True)
class Variant:
    """One compilation. report: None if the step does not fit, and then `needed` is bytes per chip, 0 if unknown.

    values: in the order of SETTINGS. seconds: that the compilation took.
    """

    values: tuple[Any, ...]
    report: Report | None
    needed: float
    seconds: float


def compare(experiment: Experiment, attempt: Callable[[Experiment], Report]) -> list[Variant]:
    """All variants that were compiled, in order. attempt: compiles a step; raises OutOfMemory."""
    found: dict[tuple[Any, ...], Variant] = {}
    best = tuple(_value(experiment, key) for key, _ in SETTINGS)
    for index, (_, choices) in enumerate(SETTINGS):
        rest = [choice for choice in choices if choice != best[index]]
        for choice in (best[index], *rest):
            values = (*best[:index], choice, *best[index + 1 :])
            if values not in found:
                found[values] = _compile(experiment, values, attempt)
        chosen = fastest(list(found.values()))
        best = best if chosen is None else chosen.values
    return list(found.values())


def fastest(found: Sequence[Variant]) -> Variant | None:
    """The variant with the shortest roofline, or the least memory among those alike; None if none fits."""
    fitting = [(each, each.report) for each in found if each.report is not None]
    if not fitting:
        return None
    shortest = min(report.seconds[report.bound] for _, report in fitting)
    alike = [pair for pair in fitting if pair[1].seconds[pair[1].bound] <= ALIKE * shortest]
    return min(alike, key=lambda pair: pair[1].bytes["peak"])[0]


def _compile(experiment: Experiment, values: Sequence[Any], attempt: Callable[[Experiment], Report]) -> Variant:
    settings = [f"{key}={value}" for (key, _), value in zip(SETTINGS, values, strict=True)]
    log.info(f"Compiling with {', '.join(settings)} …")
    began, report, needed = time.monotonic(), None, 0.0
    try:
        report = attempt(override(experiment, settings))
    except OutOfMemory as error:
        needed = error.needed
    return Variant(tuple(values), report, needed, time.monotonic() - began)


def _value(experiment: Experiment, key: str) -> Any:
    value: Any = experiment
    for name in key.split("."):
        value = getattr(value, name)
    return value


def comparison_table(found: Sequence[Variant]) -> str:
    """All variants as Markdown, the best of them marked. FLOPs with recomputation: what the devices compute."""
    giga, best = 2.0**30, fastest(found)
    names = " | ".join(key.rpartition(".")[2] for key, _ in SETTINGS)
    lines = [f"| {names} | GiB per chip | FLOPs, recomputed ones too | roofline | compiled in | |"]
    lines.append("|---" * (len(SETTINGS) + 5) + "|")
    for each in found:
        values = " | ".join(str(value) for value in each.values)
        if each.report is None:
            size = f"{each.needed / giga:.2f}" if each.needed else "?"
            lines.append(f"| {values} | {size} | – | – | {duration(each.seconds)} | does not fit |")
            continue
        report = each.report
        step = f"{report.seconds[report.bound] * 1e3:.1f} ms, {report.bound}"
        flops = report.flops["step"] + report.flops["recomputed"]
        verdict = "best" if each is best else ""
        size = f"{report.bytes['peak'] / giga:.2f}"
        lines.append(f"| {values} | {size} | {flops:.3g} | {step} | {duration(each.seconds)} | {verdict} |")
    return "\n".join(lines)
