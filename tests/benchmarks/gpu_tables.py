"""Rows of gpu.py as Markdown tables, with the figures that derive from several rows."""

from __future__ import annotations

from typing import Any


def finish(result: dict[str, Any]) -> None:
    """Add to the rows what they make of the limits measured."""
    limit = result.get("rates", {})
    about = next((row["about"] for row in rows_of(result) if "about" in row), {})
    result["about"] = about
    for row in [*result.get("step", []), *result.get("torch", [])]:
        if "seconds" in row:
            rate = row["flops"] / row["seconds"]
            row["flops_per_second"] = rate
            row["mfu"] = ratio(rate, limit.get("flops"))
            row["mfu_sheet"] = ratio(rate, about.get("sheet_flops"))
            row["positions_per_second"] = row["positions"] / row["seconds"]
            row["speech_per_second"] = row["speech_seconds"] / row["seconds"]
    for row in result.get("decode", []):
        if "seconds" in row:
            row["share"] = {
                phase: ratio(row["bytes"][phase] / seconds, limit.get("bandwidth"))
                for phase, seconds in row["seconds"].items()
            }


def rows_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    """All rows."""
    single = [result["rates"]] if "rates" in result else []
    return single + [row for part in ("check", "step", "torch", "decode") for row in result.get(part, [])]


def ratio(value: float, whole: float | None) -> float | None:
    """value / whole, None where the whole is unknown."""
    return value / whole if whole else None


def table(columns: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Markdown. columns: header → function of a row; a row that was not measured says why instead."""
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        why = row.get("error") or row.get("skipped")
        cells = [why, *[""] * (len(columns) - 1)] if why else [str(cell(row)) for cell in columns.values()]
        lines.append("| " + " | ".join([row["name"] or "as configured", *cells]) + " |")
    return "\n".join(lines) + "\n"


def shown(value: float | None, form: str, scale: float = 1.0) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value * scale, form)


TRAINING = {
    "batch": lambda row: row["batch"],
    "median ms": lambda row: f"{1e3 * row['seconds']:.1f}",
    "min–max": lambda row: f"{1e3 * row['least']:.1f}–{1e3 * row['most']:.1f}",
    "TFLOP/s": lambda row: f"{row['flops_per_second'] / 1e12:.3g}",
    "MFU, measured": lambda row: shown(row["mfu"], ".1%"),
    "MFU, data sheet": lambda row: shown(row["mfu_sheet"], ".1%"),
    "positions/s": lambda row: f"{row['positions_per_second']:.0f}",
    "speech s/s": lambda row: f"{row['speech_per_second']:.0f}",
    "peak GiB": lambda row: shown(row["peak_bytes"], ".1f", 2**-30),
    "first step s": lambda row: f"{row['first_seconds']:.1f}",
}


def decoding_columns(phase: str) -> dict[str, Any]:
    """The columns of one phase's table."""
    return {
        "ms a position": lambda row: f"{1e3 * row['seconds'][phase]:.3f}",
        "MB to read": lambda row: f"{row['bytes'][phase] / 1e6:.4g}",
        "of the limit": lambda row: shown(row["share"][phase], ".1%"),
        "hearing ms": lambda row: f"{1e3 * row['prefill_seconds']:.1f}",
        "whole answer ms": lambda row: f"{1e3 * row['answer_seconds']:.1f}",
        "peak GiB": lambda row: shown(row["peak_bytes"], ".1f", 2**-30),
    }


def limits_shown(about: dict[str, Any], limit: dict[str, Any]) -> str:
    """What the device can do, in two lines."""
    if "error" in limit:
        return f"The limits were not measured: {limit['error']}\n"
    products = ", ".join(f"{size}: {rate / 1e12:.4g}" for size, rate in limit["products"].items())
    compute, memory = shown(about["sheet_flops"], ".4g", 1e-12), shown(about["sheet_bandwidth"], ".4g", 1e-9)
    moved = f"copy {limit['copy'] / 1e9:.4g}, reduction {limit['reduction'] / 1e9:.4g}"
    return (
        f"{about['device']}, jax {about['jax']}.\n"
        f"bfloat16 matrix products by size, TFLOP/s: {products}; data sheet {compute}.\n"
        f"Memory, GB/s: {moved}; data sheet {memory}.\n"
    )


def tables(result: dict[str, Any]) -> str:
    """All that was measured, in Markdown."""
    out = [limits_shown(result["about"], result["rates"])] if "rates" in result else []
    checked = result.get("check", [])
    if checked:
        names = sorted({name for row in checked for name in row.get("differences", {})})
        each = {name: lambda row, name=name: f"{row['differences'][name]:.1g}" for name in names}
        out += ["Losses and gradient norm against plain attention, relative:\n"]
        out.append(table({"agree": lambda row: row["agree"], **each}, checked))
    names = {"step": "ours", "torch": "PyTorch"}
    steps = [row | {"name": f"{side}: {row['name']}"} for part, side in names.items() for row in result.get(part, [])]
    if steps:
        out += [f"Training, {result['steps']} steps:\n", table(TRAINING, steps)]
    for phase in ("text", "frames") if result.get("decode") else ():
        out += [f"Decoding {phase}:\n", table(decoding_columns(phase), result["decode"])]
    return "\n".join(out)
