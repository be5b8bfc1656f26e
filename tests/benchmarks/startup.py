"""Seconds from typing a command to its end: the first time, with empty caches, and the times after.

    python tests/benchmarks/startup.py --checkpoint runs/quickstart --judges runs/judges [--rounds N] [--source DIR]

DIR of --checkpoint: a finished quickstart, whose prompts are used too. Caches are those of a folder of its own.
--source: another checkout of the project, whose commands are run in place of this one's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
API = "import sys; from spectron import Spectron; print(Spectron.from_checkpoint(sys.argv[1]).generate(sys.argv[2]))"


def commands(checkpoint: Path, prompt: Path, judges: Path, out: Path) -> dict[str, list[str]]:
    """Name → the words after the interpreter."""
    model, recogniser, answers = str(checkpoint), str(checkpoint / "ctc"), str(checkpoint / "answers")
    folders = {name: ["--out", str(out / name)] for name in ("generate", "evaluate", "score", "export")}
    counting = ["evaluate", "counting", "--checkpoint", model, "--judges", str(judges), "--seeds", "1", "--limit", "8"]
    wer = ["score", "wer", "--folder", f"audio={answers}", "--folder", f"text={out / 'texts'}"]
    run = ["-m", "spectron"]
    return {
        "spectron generate, one prompt": [*run, "generate", "--checkpoint", model, str(prompt), *folders["generate"]],
        "Spectron.from_checkpoint(…).generate(…)": ["-c", API, model, str(prompt)],
        "spectron evaluate counting, 8 items": [*run, *counting, *folders["evaluate"]],
        "spectron score wer, 3 recordings": [*run, *wer, "--recogniser", recogniser, *folders["score"]],
        "spectron export": [*run, "export", "--checkpoint", model, *folders["export"]],
    }


def seconds(words: Sequence[str], source: Path, cache: Path) -> float:
    """Of one run in a fresh process; it must succeed."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(source), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr}")
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--checkpoint", type=Path, required=True)
    parse.add_argument("--judges", type=Path, required=True)
    parse.add_argument("--rounds", type=int, default=3, help="runs with full caches")
    parse.add_argument("--source", type=Path, default=ROOT)
    arguments = parse.parse_args()
    checkpoint, judges = arguments.checkpoint.absolute(), arguments.judges.absolute()
    prompt = sorted((checkpoint / "prompts").glob("*.wav"))[0]
    print("| | first time | later, median | lowest to highest |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "texts").mkdir()
        for sound in (checkpoint / "answers").glob("*.wav"):
            (out / "texts" / f"{sound.stem}.txt").write_text("one two three")
        for name, words in commands(checkpoint, prompt, judges, out).items():
            times = []
            for _ in range(1 + arguments.rounds):
                for made in ("generate", "evaluate", "score", "export"):
                    shutil.rmtree(out / made, ignore_errors=True)
                # Nothing that an earlier command compiled helps this one the first time.
                times.append(seconds(words, arguments.source, out / f"cache {name}".replace("/", " ")))
            first, later = times[0], times[1:]
            span = f"{min(later):.1f} to {max(later):.1f}"
            print(f"| {name} | {first:.1f} s | {statistics.median(later):.1f} s | {span} |", flush=True)


if __name__ == "__main__":
    main()
