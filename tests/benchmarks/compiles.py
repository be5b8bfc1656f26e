"""What the paper's sizes need on TPU slices, the tables of launch/README.md; a row is one run of `spectron compile`.

    python tests/benchmarks/compiles.py --out DIR [--jobs N] [--only sizes|scaling]

A row takes minutes on one core and up to 5 GB; a row whose JSON is already in DIR is not compiled again. Needs libtpu
(the extra `tpu`) and no TPU. Times are rooflines: what each resource takes at least, at the data sheets' rates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Row(NamedTuple):
    """One compilation: configs/spectron_CONFIG.py, where, in which layout; batch 0: the config's."""

    config: str
    topology: str
    mesh: str
    slices: int = 1
    batch: int = 0

    @property
    def file(self) -> str:
        """Where its report is kept."""
        parts = (self.config, self.slices, self.topology, self.mesh, self.batch)
        return "-".join(str(part) for part in parts).replace(":", "_").replace(",", "_").replace("=", "") + ".json"


SIZES = (
    Row("350m", "v5e:2x2", "fsdp=4"),  # the smallest slice that holds the paper's 128 utterances
    Row("350m", "v5e:4x4", "fsdp=16"),
    Row("350m", "v5p:4x4x8", "data=8,fsdp=16"),
    Row("1b", "v5e:16x16", "data=16,fsdp=16"),
    Row("1b", "v4:4x4x4", "data=4,fsdp=16"),
    Row("7b", "v5p:8x8x8", "data=8,fsdp=64"),
    Row("7b", "v5e:16x16", "replica=2,data=4,fsdp=64", slices=2),
)
# Weak scaling: eight utterances per chip.
SCALING = (
    Row("350m", "v5e:2x4", "fsdp=8", batch=64),
    Row("350m", "v5e:8x8", "data=8,fsdp=8", batch=512),
    Row("350m", "v5e:16x16", "data=32,fsdp=8", batch=2048),
    Row("350m", "v5e:16x16", "replica=4,data=32,fsdp=8", slices=4, batch=8192),
)
TABLES = {"sizes": SIZES, "scaling": SCALING}


def report(row: Row, out: Path) -> dict[str, Any]:
    """The row's report, compiled unless it lies in `out`; {"error": …} in one sentence if it was refused."""
    path = out / row.file
    if not path.is_file():
        command = [sys.executable, "-m", "spectron", "compile", str(ROOT / f"configs/spectron_{row.config}.py")]
        command += ["--topology", row.topology, "--slices", str(row.slices), "--mesh", row.mesh, "--json", str(path)]
        if row.batch:
            command += ["--set", f"stages.joint.streams.spectron.batch_size={row.batch}"]
        done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": (done.stderr.strip() or "no word").splitlines()[-1]}
        print(f"{row.file}: done", file=sys.stderr)
    return json.loads(path.read_text())


def cells(found: dict[str, Any]) -> list[str]:
    """A row of either table."""
    if "error" in found:
        return [found["error"]]
    giga, seconds = 2.0**30, found["seconds"]
    where = f"{found['slices']} x {found['topology']}" if found["slices"] > 1 else found["topology"]
    sent = sum(each["sent"] for each in found["collectives"])
    return [
        found["config"].removeprefix("spectron_"),
        f"{where} ({found['chips']})",
        ", ".join(f"{name} {size}" for name, size in found["mesh"].items()),
        str(found["batch_size"]),
        f"{found['bytes']['peak'] / giga:.1f} of {found['bytes']['memory'] / giga:.1f}",
        f"{found['flops']['step'] / 1e15:.3g}",
        f"{sent / 1e9:.2f}",
        *(f"{1e3 * seconds[name]:.1f}" for name in ("compute", "memory", "ici", "dcn")),
        found["bound"],
        *rows_per_chip(found),
    ]


def rows_per_chip(found: dict[str, Any]) -> list[str]:
    """Rows per chip, and how many make the matrix products take as long as the network (break-even).

    Parameters and gradients are sent whatever the batch: fewer rows make the products shorter, not the collectives.
    """
    seconds = found["seconds"]
    network = max(seconds["ici"], seconds["dcn"])
    rows = found["batch_size"] / found["chips"]
    return [f"{rows:.3g}", f"{rows * network / seconds['compute']:.2g}"]


HEADER = ["model", "slice (chips)", "mesh", "batch", "GiB per chip", "PFLOP per step", "GB sent per chip"]
HEADER += ["compute ms", "memory ms", "ICI ms", "DCN ms", "bound by", "rows per chip", "break-even rows"]


def main() -> int:
    """Compile what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where reports are kept")
    parser.add_argument("--jobs", type=int, default=1, help="compilations side by side")
    parser.add_argument("--only", choices=TABLES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: rows for name, rows in TABLES.items() if arguments.only in (None, name)}
    for rows in chosen.values():
        with ThreadPoolExecutor(arguments.jobs) as pool:
            found = list(pool.map(lambda row: report(row, arguments.out), rows))
        lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
        print("\n".join([*lines, *("| " + " | ".join(cells(each)) + " |" for each in found)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
