"""How long the first batch takes at a start with 15 million records in buckets of length and of tokens, and its memory.

    python tests/benchmarks/resuming.py --work DIR [--records 15000000] [--shards 13000] [--rounds 3]

60,000 hours are about 15 million utterances. DIR gets a folder of as many shards, empty but for their names, and what a
first start leaves there: the columns of all records and their numbers of tokens, drawn from a distribution like
LibriSpeech's. Every start is a process of its own that opens the task as training does (listing the folder, reading
these files, comparing with the limits of configs/librilight.py, ordering) and makes one batch, whose recordings cost
nothing to read. Starts after ten records and after ten million take turns.

The first start itself is measured with --count N: real indexes with N texts are written and counted by the
SentencePiece model --pieces. --text FILE measures how long a text file takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BATCH = 128
LATE = 10_000_000  # records read before the late start
WORDS = "the of and a to in was he that his it with as had for at not on but be him they which have said all"


def experiment(folder: Path, pieces: Path) -> Any:
    """The data of configs/librilight.py, with its shards alone."""
    import runpy

    from spectron.config import Experiment, SentencePieceConfig

    data = runpy.run_path(str(ROOT / "configs" / "librilight.py"))["data"]()
    task = dataclasses.replace(data.tasks[0], root=str(folder))
    data = dataclasses.replace(
        data, tasks=(task,), mixtures=(), reader="direct",
        vocabulary=SentencePieceConfig(str(pieces)),
    )  # fmt: skip
    return Experiment("librilight", data, ())


def small_vocabulary(path: Path) -> None:
    """A SentencePiece model of a few pieces, if there is none."""
    from spectron.data.vocabulary import make_pieces

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_pieces([WORDS, *WORDS.split()] * 20, 60))


def simulate(folder: Path, records: int, shards: int, pieces: Path) -> None:
    """The folder as a first start leaves it, without the indexes' content."""
    from spectron.data.fitting import Fitting
    from spectron.data.shard_index import FolderIndex
    from spectron.data.shards import index_path, shard_path

    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(shards):
        shard_path(folder, number).touch()
        index_path(shard_path(folder, number)).touch()
    seconds = np.where(rng.random(records) < 0.7, rng.normal(14, 1.2, records), rng.uniform(4.8, 15.9, records))
    lengths = (np.clip(seconds, 4.8, 15.9) * 16_000).astype(np.int32)
    tokens = np.clip(rng.normal(3.6 * seconds, 6), 5, 79).astype(np.int32)
    sizes = np.diff(np.linspace(0, records, shards + 1).astype(np.int64))
    columns = {"sizes": sizes, "num_samples": lengths, "sample_rate": np.full(records, 16_000, np.int32)}
    columns["text_bytes"] = 4 * tokens

    class Simulated(FolderIndex):
        """Columns of records that are in no shard."""

        def _read(self) -> dict[str, np.ndarray]:
            return columns

    config = experiment(folder, pieces)
    checksum = Fitting(config.data.tasks[0], config.data, config.features).checksum()
    Simulated(folder)._stored("tokens", checksum, True, lambda: {"tokens": tokens})


def start(folder: Path, pieces: Path, records: int) -> None:
    """One start, in a process of its own: open the feed and make the batch after `records` records; print seconds and
    gigabytes."""
    from spectron.data.batches import make_feed
    from spectron.data.shard_source import ShardSource
    from spectron.types import Example

    imported = time.process_time()

    def read(source: ShardSource, i: int) -> Example:
        return Example(np.zeros(source.lengths[i], np.int16), 60_000, "the", str(i))

    ShardSource.__getitem__ = read  # type: ignore[method-assign]
    ShardSource.text_of = lambda source, i: "the"  # type: ignore[method-assign]
    feed = make_feed(experiment(folder, pieces), "librilight", BATCH)
    opened = time.process_time()
    shares = feed.rows.shares()  # type: ignore[attr-defined]
    rows = sum(shape.rows * share for shape, share in shares.items())
    batches = feed.batches(int(records / rows))
    next(batches)
    done = time.process_time()
    batches.close()  # type: ignore[attr-defined]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    kept = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9
    figures = {"imports": imported, "opening": opened - imported, "batch": done - opened}
    print(json.dumps({**figures, "cpu": done, "peak_gb": memory, "gb": kept}))


def count(folder: Path, pieces: Path, texts: int) -> None:
    """Write the indexes of real texts, and count their tokens as a first start does."""
    from spectron.data.fitting import Fitting
    from spectron.data.shard_index import FolderIndex
    from spectron.data.shards import Utterance, shard_path, write_shard

    rng, size = np.random.default_rng(0), 1000
    for number in range(-(-texts // size)):
        lines = (" ".join(rng.choice(WORDS.split(), 35)).upper() for _ in range(size))
        shard = (Utterance(f"{number}-{i}", "", "", b"", 16_000, 200_000, line) for i, line in enumerate(lines))
        write_shard(shard_path(folder, number), shard)
    task = experiment(folder, pieces)
    index, began = FolderIndex(folder), time.process_time()
    index.tokens(Fitting(task.data.tasks[0], task.data, task.features))
    used = time.process_time() - began
    print(f"first start: {used:.1f} CPU seconds for {texts:,} texts, {used / texts * 15e6 / 60:.1f} minutes for 15 M")


def read_text(path: Path, pieces: Path) -> None:
    """Open a text file twice: print CPU seconds and memory for 10 GB of such text."""
    from spectron.data.sources import make_source

    config = experiment(path, pieces)
    task = dataclasses.replace(config.data.tasks[0], source="text", normaliser="keep")
    for name in ("first", "second"):
        began = time.process_time()
        source = make_source(task, config.data, config.features)
        share = path.stat().st_size / 1e10
        minutes, memory = (time.process_time() - began) / 60, 16 * len(source) / 1e9
        print(f"text, {name} start: {minutes / share:.2f} CPU minutes and {memory / share:.2f} GB for 10 GB")


def main() -> None:
    """Measure and print Markdown."""
    from spectron.data.fitting import SMALL
    from spectron.data.shard_index import MANY

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--records", type=int, default=15_000_000)
    parser.add_argument("--shards", type=int, default=13_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--pieces", type=Path, default=None, help="a SentencePiece model")
    parser.add_argument("--text", type=Path, default=None, help="a text file of more than 4 MiB, not read before")
    parser.add_argument("--start", type=int, default=-1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pieces = arguments.pieces or arguments.work / "pieces.model"
    folder = arguments.work / f"{arguments.records}-{arguments.shards}"
    if arguments.shards < MANY or arguments.records < SMALL:
        parser.error(f"what fewer than {MANY} shards or {SMALL} records need is not kept between starts")
    if arguments.start >= 0:
        start(folder, pieces, arguments.start)
        return
    small_vocabulary(pieces)
    if arguments.count:
        count(arguments.work / f"texts-{arguments.count}", pieces, arguments.count)
    if arguments.text:
        read_text(arguments.text, pieces)
    if not folder.is_dir():
        simulate(folder, arguments.records, arguments.shards, pieces)
    times: dict[int, list[dict[str, float]]] = {10: [], min(LATE, 2 * arguments.records // 3): []}
    for _ in range(arguments.rounds):
        for records, found in times.items():
            command = [sys.executable, __file__, *sys.argv[1:], f"--start={records}"]
            began = time.perf_counter()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            clock = time.perf_counter() - began
            found.append({**json.loads(done.stdout.splitlines()[-1]), "clock": clock})
    print(f"{arguments.records:,} records in {arguments.shards:,} shards, medians of {arguments.rounds} starts\n")
    print("| first batch after | CPU seconds | imports | opening | batch | by the clock | GB at most | GB after it |")
    keys = ("cpu", "imports", "opening", "batch", "clock", "peak_gb", "gb")
    print("|---|" + "---:|" * len(keys))
    for records, found in times.items():
        cells = (f"{statistics.median(each[key] for each in found):.2f}" for key in keys)
        print(f"| {records:,} records | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
