"""How long the first batch takes after a restart, at record 10 and at record 10 million of a simulated index.

    python tests/benchmarks/resuming.py [--records 15000000] [--rounds 5]

60,000 hours are about 15 million utterances. Their lengths are drawn from a LibriSpeech-like distribution; reading one
costs nothing, so what is measured is finding the position: opening the feed, and its first batch. The two starts take
turns. The batch must equal that of a feed which ran from the beginning.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spectron.config import DataConfig, FeatureConfig
from spectron.data.batches import _order
from spectron.data.fields import to_batch
from spectron.data.sources import Source
from spectron.data.vocabulary import make_vocabulary
from spectron.types import Batch, Example

BATCH = 128
FEATURES = FeatureConfig()
CONFIGS = {
    "buckets": DataConfig(max_tokens=16, buckets=(7.5, 10.0, 11.5, 13.0, 14.0, 15.0, 15.5)),
    "no buckets": DataConfig(max_tokens=16),
}


class Simulated:
    """Record i is i samples' worth of nothing, and says its number."""

    def __init__(self, records: int):
        rng = np.random.default_rng(0)
        seconds = np.where(rng.random(records) < 0.7, rng.normal(14, 1.2, records), rng.uniform(4.8, 15.9, records))
        self.lengths = (np.clip(seconds, 4.8, 15.9) * FEATURES.sample_rate).astype(np.int64)
        self.rejected: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Example:
        return Example(np.zeros(self.lengths[i], np.int16), 60_000, str(i), str(i))


def start(data: DataConfig, source: Source, step: int, more: int = 1) -> list[Batch]:
    """Open the order of the records and make the batches of some steps."""
    rows, steps = _order(data, FEATURES, ["speech"], [source], [1.0], 0, BATCH)
    vocabulary, found = make_vocabulary(data.vocabulary), []
    for number in range(step, step + more):
        room, numbers = steps(number)
        found.append(to_batch(rows.fetch_all(numbers), data, FEATURES, vocabulary, room=room))
    return found


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=15_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    source = Simulated(arguments.records)
    print(f"{arguments.records:,} records; seconds from opening to the first batch, {arguments.rounds} rounds\n")
    print("| | after 10 records | after 10,000,000 | ratio |\n|---|---:|---:|---:|")
    for name, data in CONFIGS.items():
        average = BATCH * data.max_seconds / (source.lengths.mean() / FEATURES.sample_rate) if data.buckets else BATCH
        steps = [1, int(10_000_000 / average)]
        times: dict[int, list[float]] = {step: [] for step in steps}
        for _ in range(arguments.rounds):
            for step in steps:
                began = time.perf_counter()
                batch = start(data, source, step)[0]
                times[step].append(time.perf_counter() - began)
                walked = start(data, source, step - 1, 2)[1]
                np.testing.assert_array_equal(batch.text, walked.text)
                np.testing.assert_array_equal(batch.num_samples, walked.num_samples)
        early, late = (statistics.median(times[step]) for step in steps)
        print(f"| {name} | {early:.2f} | {late:.2f} | {late / early:.2f} |")


if __name__ == "__main__":
    main()
