"""A tree of thousands of chapters through cut → label → write → batches, killed at random and started again.

    python tests/benchmarks/librilight.py --out DIR [--chapters 2000] [--kills 3] [--seed 0] [BEAM OPTION …]

The tree is hard links to a few chapters: those of $SPECTRON_DATA if it is set, else synthetic ones. One run is left
alone; another is killed (SIGKILL) and started again until it is done. Their folders must be equal to the byte, and the
recogniser, which logs its inputs, must have read every utterance once. Without BEAM OPTIONs Beam is not needed
(--runner inline). Takes minutes on one core, and 2.5 times the size of the audio on disk.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from librilight_tree import FakeFactory, Selective, add_chapter, contents, talk, tree_of_links  # noqa: E402

SPANS = [[0.96, 6.0], [7.04, 12.0], [13.04, 19.04], [20.0, 29.04]]
STEPS = ("cut", "labels", "final")


def make_tree(root: Path, chapters: int) -> Path:
    """ROOT/tree: hard links to the fixture's chapters and to two made up ones, one of them without JSON."""
    sources = [
        add_chapter(root / "sources", "a/b/1", talk(SPANS, 30), SPANS),
        add_chapter(root / "sources", "a/b/2", talk(SPANS[:3], 24, seed=1)),
    ]
    fixture = Path(os.environ.get("SPECTRON_DATA", "")) / "librilight_like"
    if os.environ.get("SPECTRON_DATA") and fixture.is_dir():
        for path in sorted(fixture.rglob("*.flac")):
            folder = root / "sources" / "real" / path.stem
            folder.mkdir(parents=True)
            for suffix in (".flac", ".json"):
                shutil.copy(path.with_suffix(suffix), folder)
            sources.insert(0, folder / path.name)
    tree_of_links(root / "tree", sources, chapters)
    return root / "tree"


def work(tree: str, out: Path, megabytes: float, delay: float, options: list[str]) -> None:
    """All three steps; prints the seconds of each."""
    from spectron.corpora import pipelines

    took = {}
    start = time.perf_counter()
    pipelines.cut(tree, out / "cut", pipelines.CorpusConfig(shard_megabytes=megabytes), options=options)
    took["cut"] = time.perf_counter() - start
    start = time.perf_counter()
    pipelines.label(out / "cut", out / "labels", FakeFactory(out / "log", delay), "fake", 16, options)
    took["label"] = time.perf_counter() - start
    start = time.perf_counter()
    report = pipelines.write(out / "cut", out / "final", out / "labels", Selective(), options=options)
    took["write"] = time.perf_counter() - start
    print(json.dumps({"seconds": took, "utterances": report["utterances"], "hours": report["hours"]}))


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """`work` in a process group of its own, workers included."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, __file__, "--work", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What `work` printed."""
    said, _ = process.communicate()
    assert process.returncode == 0, f"exit code {process.returncode}"
    return json.loads(said.splitlines()[-1])


def done(out: Path) -> dict[str, int]:
    """Finished files of each step."""
    ends = {"cut": "*.index.npz", "labels": "shard-*.jsonl", "final": "*.index.npz"}
    return {step: len(list((out / step).glob(end))) for step, end in ends.items()}


def heard(log: Path) -> collections.Counter[str]:
    """How often each recording was heard."""
    return collections.Counter(log.read_text().splitlines())


def points(shards: dict[str, int], kills: int, chance: random.Random) -> list[float]:
    """So many finished files: random, one in every equal part of the work, each step counting the same."""
    places = [(i + chance.random()) / kills * len(STEPS) for i in range(kills)]
    return [sum(shards[step] * min(1.0, max(0.0, place - i)) for i, step in enumerate(STEPS)) for place in places]


def kill(root: Path, rest: list[str], point: float, chance: random.Random) -> dict[str, int]:
    """Start the work and kill it a moment after it has finished so many files; returns what it left."""
    process = start([str(root / "tree"), str(root / "killed"), *rest])
    while sum(done(root / "killed").values()) < point:
        assert process.poll() is None, f"exit code {process.returncode} before it could be killed"
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.2))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over before it could be killed"
    journals = len(list((root / "killed" / "labels").glob(".*.journal")))
    parts = len(list((root / "killed").rglob(".*.part")))
    return {**done(root / "killed"), "half labelled": journals, "half written": parts}


def run(
    root: Path, chapters: int, kills: int, seed: int = 0, megabytes: float = 16, delay: float = 0.0, options: Any = ()
) -> dict[str, Any]:
    """Everything; returns what was measured. Raises AssertionError where the two runs differ."""
    chance = random.Random(seed)
    tree = make_tree(root, chapters)
    size = sum(path.stat().st_size for path in tree.rglob("*.flac"))
    rest = [str(megabytes), str(delay), *(options or ["--runner", "inline"])]
    before = time.perf_counter()
    whole = finish(start([str(tree), str(root / "whole"), *rest]))
    total = time.perf_counter() - before
    killed = [kill(root, rest, point, chance) for point in points(done(root / "whole"), kills, chance)]
    before = time.perf_counter()
    finish(start([str(tree), str(root / "killed"), *rest]))
    last = time.perf_counter() - before
    for step in STEPS:
        a, b = contents(root / "whole" / step), contents(root / "killed" / step)
        assert a.keys() == b.keys(), f"{step}: {sorted(a.keys() ^ b.keys())}"
        assert a == b, f"{step}: {[name for name in a if a[name] != b[name]]} differ"
    once, again = heard(root / "whole/log"), heard(root / "killed/log")
    return {
        "chapters": chapters,
        "chapters_gigabytes": size / 1e9,
        **whole,
        "undisturbed_seconds": total,
        "killed_at": killed,
        "last_start_seconds": last,
        "labelled": sum(once.values()),
        "labelled_twice": sum((again - once).values()),
        "not_labelled": sum((once - again).values()),
        "shards": done(root / "whole")["cut"],
    }


def batches(folder: Path, count: int) -> dict[str, float]:
    """`count` batches of 16 by seqio from the final shards: how many, and utterance-seconds a second."""
    from spectron.config import DataConfig, Experiment, TaskConfig
    from spectron.data.batches import make_feed

    data = DataConfig(str(folder), tasks=(TaskConfig("pool", "shards"),), max_tokens=64)
    made = make_feed(Experiment("pool", data, ()), "pool", 16).batches()
    next(made)
    before = time.perf_counter()
    seconds = [float(batch.num_samples.sum()) / 16_000 for batch in itertools.islice(made, count)]
    rate = sum(seconds) / (time.perf_counter() - before)
    made.close()  # type: ignore[attr-defined]
    return {"batches": len(seconds), "utterance_seconds_per_second": rate}


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["--work"]:
        tree, out, megabytes, delay, *options = sys.argv[2:]
        work(tree, Path(out), float(megabytes), float(delay), options)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--chapters", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.002, help="seconds the recogniser takes for an utterance")
    arguments, options = parser.parse_known_args()
    arguments.out.mkdir(parents=True)
    found = run(
        arguments.out, arguments.chapters, arguments.kills, arguments.seed, delay=arguments.delay, options=options
    )
    found["seqio"] = batches(arguments.out / "killed" / "final", 20)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
