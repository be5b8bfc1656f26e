"""The 350 M model on one NVIDIA GPU: the GPU's limits, the training step, the same in PyTorch, greedy decoding.

    python tests/benchmarks/gpu.py --batch 16 --json gpu.json
    python tests/benchmarks/gpu.py --only rates step --variant remat=none,attention=cudnn,batch=32
    python tests/benchmarks/gpu.py --small                  # all of it at a tiny size, on a CPU too

Needs jax[cuda13], flax, optax, orbax-checkpoint, jaxtyping and tqdm, and torch for PyTorch's rows. Every row of a table
is measured in a process of its own: its peak memory is its own, and a row that does not fit fails alone.

An entry of --variant or --decoding is "key=value,…" over the config: remat, attention, chunk (logits_chunk), scan
(scan_layers), dft, any dotted key, batch, and in --decoding weights (the type they are stored in).

Training. Noise of full length, already on the device; every step is waited for. MFU = model FLOPs
(spectron.cost.flops) / (median seconds x FLOP/s), the FLOP/s of the best matrix product measured here, or the data
sheet's. Positions are what the LM computes: rows x (encoder frames + text + frame steps).

Decoding, greedy, batch 1. A position must read once the weights that its phase multiplies by, in the compute type:

    bytes(text)   = bytes of the type x (LM layers and norms + text head)
    bytes(frames) = bytes of the type x (LM layers and norms + pre-net + post-net + stop head)
    share of the limit = bytes / (measured bandwidth x seconds of a position)

The aim is 70 %. Left out: keys and values (cache_bytes in the JSON), activations, the one row of the embedding, and the
pre-net and post-net that decode.py computes beside text (some MB). The seconds come from one compiled program and three
inputs: none (prefill alone), short (all tokens, one step of frames) and full (to the limit); text = (short - none) /
(tokens + 1), frames = (full - short) / (steps - 1), each from the shortest of its rounds: other work on the machine
only adds time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from benchmarks import gpu_ours, gpu_tables  # noqa: E402

from spectron.config import (  # noqa: E402
    Experiment,
    JointConfig,
    StreamConfig,
    load_experiment,
    override,
)
from spectron.types import UserError  # noqa: E402

PARTS = ("rates", "check", "step", "torch", "decode")
SHORT = {
    "remat": "model.remat",
    "attention": "model.lm.attention",
    "chunk": "model.logits_chunk",
    "scan": "model.scan_layers",
    "dft": "features.dft",
}
OWN = ("batch", "weights")  # no keys of the config
VARIANTS = (
    "remat=none,attention=cudnn,chunk=0",
    "remat=none,attention=plain,chunk=0",
    "remat=dots,attention=cudnn,chunk=0",
    "remat=dots,attention=plain,chunk=0",
    "remat=full,attention=plain",
)
MODES = ("compile", "eager")
DECODING = ("weights=bfloat16", "weights=bfloat16,scan=false", "weights=float32")
ENCODER = ("dim=32", "num_layers=2", "num_heads=2", "conv_channels=16")
LM = ("dim=32", "num_layers=2", "num_heads=4", "num_kv_heads=4", "ff_dim=64")
DATA = ("max_seconds=1.25", "max_prompt_seconds=0.25", "max_continuation_seconds=1.0", "max_tokens=64")
SMALL = [
    *(f"model.encoder.{each}" for each in ENCODER),
    *(f"model.lm.{each}" for each in LM),
    *(f"data.{each}" for each in (*DATA, "vocabulary.size=64")),
    "features.num_mels=16",
    "model.encoder.features.num_mels=16",
]
# Set where the user has not: one process at a time has the GPU.
MEMORY = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_CLIENT_MEM_FRACTION": "0.92"}


def settings(entry: str) -> dict[str, str]:
    """An entry's values by key. Raises UserError for a part without a value."""
    parts = [part.partition("=") for part in entry.split(",") if part]
    for key, sign, _ in parts:
        if not sign:
            raise UserError(f"{entry!r}: {key!r} has no value; write key=value,….")
    return {key: value for key, _, value in parts}


def experiment_of(arguments: argparse.Namespace, entry: str = "", small: bool = False) -> Experiment:
    """The config with an entry's settings; its one stage reads speech alone, from fresh parameters."""
    experiment = load_experiment(arguments.config, [*(SMALL if arguments.small or small else ()), *arguments.set])
    chosen = settings(entry)
    experiment = override(experiment, [f"{SHORT.get(k, k)}={v}" for k, v in chosen.items() if k not in OWN])
    stream = StreamConfig(JointConfig(), "", int(chosen.get("batch", arguments.batch)))
    stage = dataclasses.replace(experiment.stages[-1], streams=(stream,), start_from=())
    return dataclasses.replace(experiment, stages=(stage,))


# The parts, each in one process.


def rates(arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """Limits of the device."""
    return gpu_ours.rates(arguments.small)


def check(arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """The losses with this attention against those with plain attention, at the same parameters and batch."""
    plain, other = experiment_of(arguments, "attention=plain"), experiment_of(arguments, entry)
    if why := gpu_ours.lacking(other):
        return {"skipped": why}
    batch = gpu_ours.noise(plain, 2, full=False)
    return gpu_ours.compare(gpu_ours.losses(plain, batch), gpu_ours.losses(other, batch))


def step(arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """Our training step."""
    experiment = experiment_of(arguments, entry)
    if why := gpu_ours.lacking(experiment):
        return {"skipped": why}
    return gpu_ours.step(experiment, arguments.steps)


def peer(arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """PyTorch's training step; first both must be the same model, at a small size."""
    from benchmarks import gpu_twin

    device = gpu_twin.place()
    if entry == "compile" and device == "cpu":
        return {"skipped": "torch.compile is timed on a GPU only"}
    tiny = experiment_of(arguments, small=True)
    statistics = gpu_ours.speech_like(tiny)
    differences = gpu_twin.differences(tiny, statistics, gpu_ours.noise(tiny, 3, full=False), device)
    experiment = experiment_of(arguments)
    stage, statistics = experiment.stages[0], gpu_ours.speech_like(experiment)
    batch = gpu_ours.noise(experiment, stage.streams[0].batch_size)
    once = gpu_twin.make_step(experiment, stage, statistics, batch, device, entry == "compile")
    found = gpu_ours.times(once, arguments.steps)
    ended = {"loss": once(), "peak_bytes": gpu_twin.peak_bytes(device), "differences": differences}
    return gpu_ours.work(experiment) | found | ended | {"torch": gpu_twin.torch.__version__}


def decode(arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """Greedy decoding."""
    stored = settings(entry).get("weights", "bfloat16")
    return gpu_ours.decoding(experiment_of(arguments, entry), stored, max(arguments.steps // 2, 5))


RUN = dict(zip(PARTS, (rates, check, step, peer, decode), strict=True))


def attempt(part: str, arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """A row: what was measured, or in words why not."""
    try:
        found = RUN[part](arguments, entry)
        return {"name": entry, **found, **({} if part == "torch" else {"about": gpu_ours.about()})}
    except Exception as error:  # too little memory, a kernel that refuses: the others go on
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        return {"name": entry, "error": f"{type(error).__name__}: {lines[0][:300]}"}


def child(part: str, arguments: argparse.Namespace, entry: str) -> dict[str, Any]:
    """The same in a process of its own, which is ended after --limit seconds."""
    option = {"check": "--variant", "step": "--variant", "torch": "--torch", "decode": "--decoding"}.get(part)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        command = [sys.executable, __file__, "--row", part, "--json", str(out), "--config", str(arguments.config)]
        command += ["--batch", str(arguments.batch), "--steps", str(arguments.steps), "--set", *arguments.set]
        command += ["--small"] * arguments.small + ([option, entry] if option else [])
        env = MEMORY | os.environ | ({"JAX_PLATFORMS": "cpu"} if part == "torch" else {})
        try:
            done = subprocess.run(command, env=env, timeout=arguments.limit, check=False)
        except subprocess.TimeoutExpired:
            return {"name": entry, "error": f"took more than {arguments.limit:g} s"}
        if not out.is_file():
            return {"name": entry, "error": f"the process ended with code {done.returncode}"}
        return json.loads(out.read_text())


# The command line.


def entries(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The rows of every part."""
    kinds = [experiment_of(arguments, entry).model.lm.attention for entry in arguments.variant]
    checked = [f"attention={kind}" for kind in dict.fromkeys(kinds) if kind != "plain"]
    found = {"rates": [""], "check": checked, "step": arguments.variant}
    found |= {"torch": arguments.torch, "decode": arguments.decoding}
    return {part: rows for part, rows in found.items() if part in arguments.only}


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(ROOT / "configs" / "spectron_350m.py"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every row")
    parser.add_argument("--batch", type=int, help="rows of a training step (16; with --small 2)")
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--variant", nargs="+", help="our training steps")
    parser.add_argument("--torch", nargs="+", choices=MODES, default=MODES, help="PyTorch's training steps")
    parser.add_argument("--decoding", nargs="+", help="our decoding")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that one row may take")
    parser.add_argument("--small", action="store_true", help="tiny sizes, in this one process")
    parser.add_argument("--json", type=Path, help="where the figures go, after every row")
    parser.add_argument("--row", choices=PARTS, help=argparse.SUPPRESS)  # a process of our own
    arguments = parser.parse_args(given)
    arguments.batch = arguments.batch or (2 if arguments.small else 16)
    # Tiny sizes are compiled as long as large ones: one of each then.
    arguments.variant = arguments.variant or (VARIANTS[:2] if arguments.small else VARIANTS)
    arguments.decoding = arguments.decoding or (DECODING[:1] if arguments.small else DECODING)
    try:
        for entry in (*arguments.variant, *arguments.decoding):
            experiment_of(arguments, entry)  # a misspelt key is found before anything has run
    except (UserError, ValueError) as error:
        parser.error(str(error))
    return arguments


def main(given: list[str] | None = None) -> int:
    """Measure part by part and print the tables; 1 if a kernel computes something else."""
    arguments = parse(given)
    if arguments.row:
        entry = entries(argparse.Namespace(**{**vars(arguments), "only": [arguments.row]}))[arguments.row][0]
        arguments.json.write_text(json.dumps(attempt(arguments.row, arguments, entry)))
        return 0
    result: dict[str, Any] = {"config": arguments.config, "small": arguments.small, "steps": arguments.steps}
    for part, rows in entries(arguments).items():
        for entry in rows:
            print(f"{part} {entry} …", file=sys.stderr)
            row = (attempt if arguments.small else child)(part, arguments, entry)
            result |= {"rates": row} if part == "rates" else {part: [*result.get(part, []), row]}
            gpu_tables.finish(result)
            if arguments.json:
                arguments.json.write_text(json.dumps(result, indent=1))
        if not all(row.get("agree", True) for row in gpu_tables.rows_of(result)):
            print(gpu_tables.tables(result))
            print("An attention kernel computes something else: nothing was timed.", file=sys.stderr)
            return 1
    print(gpu_tables.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
