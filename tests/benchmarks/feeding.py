"""How fast utterances are read into batches: our feed from ArrayRecord against PyTorch's DataLoader, and a chip's need.

    python tests/benchmarks/feeding.py --data DIR --work DIR --report compiled.json        # CPU, some minutes

DIR holds the LibriSpeech layout (any audio that soundfile reads). It is written to --work once, as FLAC files and as
ArrayRecord shards of the same bytes. Contenders make the same batches of the same records with the same collation
(to_batch) and as many workers as there are cores: ours with threads; DataLoader with processes, soundfile reading
int16, from the FLAC files and from the shards. They take short turns; figures and ratios are medians of the rounds.

Two rates: wall-clock time on all cores, divided by their number, and CPU time of all threads and worker processes,
which other work on the machine does not change. --report is what `spectron compile … --json` wrote: how much speech a
chip needs a second if it runs at its roofline, hence how many cores must feed it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron.config import DataConfig, Experiment, TaskConfig
from spectron.data.batches import Feed, make_feed
from spectron.data.fields import to_batch
from spectron.data.shards import Shards, Utterance, encode_flac, shard_path, write_shard
from spectron.data.sources import make_source
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Example

SHARD = 256  # ours: utterances of a shard
WARM_UP = 2  # batches before the clock starts: DataLoader's processes start up
TICKS = os.sysconf("SC_CLK_TCK")


def prepare(data: Path, work: Path) -> Experiment:
    """Write the recordings as FLAC files and shards, unless they are there; the experiment that reads the shards."""
    config = DataConfig(
        root=str(work / "shards"), reader="direct", tasks=(TaskConfig("speech", "shards"),),
        prompt_seconds=0.5, min_continuation_seconds=0.1, max_seconds=17.5, max_continuation_seconds=17.5,
        row_multiple=1,
        max_tokens=320, buckets=(8.0, 11.0, 13.0, 14.0, 15.0, 16.0),
    )  # fmt: skip
    if not (work / "shards").is_dir():
        split = next(path for path in (data / "LibriSpeech").iterdir() if path.is_dir()).name
        source = make_source(
            TaskConfig("raw", "librispeech", split, str(data)), config, Experiment("", config, ()).features
        )
        (work / "flac").mkdir(parents=True, exist_ok=True)
        utterances = []
        for i in tqdm(range(len(source)), desc="writing FLAC", disable=None):
            example = source[i]
            audio = encode_flac(example.samples, 16_000)
            (work / "flac" / f"{example.id}.flac").write_bytes(audio)
            size = len(example.samples)
            utterances.append(Utterance(example.id, example.speaker, "", audio, 16_000, size, example.text))
        for number, start in enumerate(range(0, len(utterances), SHARD)):
            write_shard(shard_path(work / "part", number), utterances[start : start + SHARD])
        (work / "part").rename(work / "shards")
    return Experiment("feeding", config, ())


class Recordings(Dataset):
    """What one writes for PyTorch: an index, soundfile and a collation. shards False: the FLAC files."""

    def __init__(self, experiment: Experiment, flac: Path, feed: Feed, shards: bool):
        self.experiment, self.flac, self.from_shards = experiment, flac, shards
        self.shards = Shards(experiment.data.root)
        kept = feed.rows.sources[0]._usable.tolist()
        paths = [(int(i), self.shards[int(i)]) for i in kept]
        self.items = [(number, u.id, u.speaker, u.text) for number, u in paths]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Example:
        number, name, speaker, text = self.items[i]
        if self.from_shards:
            import io

            samples, _ = soundfile.read(io.BytesIO(self.shards[number].audio), dtype="int16")
        else:
            samples, _ = soundfile.read(self.flac / f"{name}.flac", dtype="int16")
        prompt = round(self.experiment.data.prompt_seconds * 16_000)
        return Example(samples, prompt, text, name, speaker)


class Collate:
    """Our collation, as tensors; the shape of a batch is found from its longest example, as the feed's batches are."""

    def __init__(self, experiment: Experiment, feed: Feed):
        self.experiment, self.shapes = experiment, feed.rows.shapes

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        shape = next(shape for shape in self.shapes if shape.rows == len(examples))
        data, features = self.experiment.data, self.experiment.features
        batch = to_batch(examples, data, features, make_vocabulary(data.vocabulary), shape=shape)
        return {name: torch.from_numpy(array) for name, array in batch.fields().items()}


def contenders(experiment: Experiment, work: Path, batch: int, cores: int) -> dict[str, Callable[[], Iterator]]:
    """Name → what starts an endless or long iterator over batches."""
    feed = make_feed(experiment, "speech", batch)
    assert len({shape.rows for shape in feed.rows.shapes}) == len(feed.rows.shapes), "rows must tell the shapes apart"

    def records() -> Iterator[list[int]]:
        for step in itertools.count():
            yield [next(feed.rows.candidates(row))[1] for row in feed.step(step)[1]]

    def loader(shards: bool) -> Callable[[], Iterator]:
        dataset, collate = Recordings(experiment, work / "flac", feed, shards), Collate(experiment, feed)
        return lambda: iter(
            DataLoader(dataset, batch_sampler=records(), collate_fn=collate, num_workers=cores, prefetch_factor=2)
        )

    threads = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, readers=cores))
    found: dict[str, Callable[[], Iterator]] = {
        "ours, ArrayRecord": lambda: make_feed(threads, "speech", batch).batches(),
        "DataLoader, FLAC files": loader(False),
        "DataLoader, ArrayRecord": loader(True),
    }
    check_same(found)
    return found


def check_same(found: dict[str, Callable[[], Iterator]]) -> None:
    """All contenders make the same first batch."""
    first = []
    for make in found.values():
        running = make()
        batch = next(running)
        first.append(batch if isinstance(batch, dict) else batch.fields())
        close(running)
    for other in first[1:]:
        for name, value in other.items():
            np.testing.assert_array_equal(np.asarray(value), first[0][name], err_msg=name)


def close(running: Iterator) -> None:
    """End threads or worker processes."""
    stop = getattr(running, "close", None) or running._shutdown_workers
    stop()


def processor_seconds() -> float:
    """Of this process and of its children that live."""
    own = os.times()
    total = own.user + own.system
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def measure(make: Callable[[], Iterator], batches: int) -> tuple[float, float]:
    """Seconds of speech per second by the clock, and per second of the processors."""
    running = make()
    for _ in range(WARM_UP):
        next(running)
    began, used, speech = time.perf_counter(), processor_seconds(), 0.0
    for _ in range(batches):
        batch = next(running)
        counts = batch["num_samples"] if isinstance(batch, dict) else batch.num_samples
        speech += int(counts.sum()) / 16_000
    clock, used = time.perf_counter() - began, processor_seconds() - used
    close(running)
    return speech / clock, speech / used


def eaten(report: Path) -> tuple[str, float]:
    """A line about a compiled step, and seconds of (padded) speech that one chip takes in a second at its roofline."""
    found = json.loads(report.read_text())
    seconds = max(found["seconds"].values())
    rate = found["speech_seconds"] / seconds / found["chips"]
    return (
        f"{found['config']} on {found['topology']}: {found['speech_seconds']:,.0f} s of speech in a step of "
        f"{1e3 * seconds:.1f} ms or more ({found['bound']}) on {found['chips']} chips: {rate:,.0f} s/s a chip"
    ), rate


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where FLAC files and shards are kept")
    parser.add_argument("--report", type=Path, action="append", default=[], help="of spectron compile; may be repeated")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    found = contenders(prepare(arguments.data, arguments.work), arguments.work, arguments.batch, cores)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(arguments.rounds):
        for name, make in found.items():
            rates[name].append(measure(make, arguments.batches))
    print(f"{cores} core(s), {arguments.rounds} rounds of {arguments.batches} batches; seconds of speech a second\n")
    print("| | by the clock, per core | by processor time | min–max | ours against it |\n|---|---:|---:|---|---:|")
    clocks = {name: statistics.median(clock for clock, _ in pairs) / cores for name, pairs in rates.items()}
    used = {name: statistics.median(rate for _, rate in pairs) for name, pairs in rates.items()}
    ours = next(iter(found))
    for name, pairs in rates.items():
        span = f"{min(rate for _, rate in pairs):,.0f}–{max(rate for _, rate in pairs):,.0f}"
        # Within a round the machine is most alike: the median of the rounds' ratios.
        pairs_of_rounds = list(zip(rates[ours], pairs, strict=True))
        ratio = " ".join(
            f"{statistics.median(a[i] / b[i] for a, b in pairs_of_rounds):.2f} × {what}"
            for i, what in enumerate(("clock,", "processor"))
        )
        print(f"| {name} | {clocks[name]:,.0f} | {used[name]:,.0f} | {span} | {ratio if name != ours else ''} |")
    for report in arguments.report:
        line, rate = eaten(report)
        print(f"\n{line}: {rate / used[ours]:.2f} cores per chip.")


if __name__ == "__main__":
    main()
