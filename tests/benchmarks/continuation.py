"""The continuation suite on 100 prompts, in batches and one by one, judges included.

    python tests/benchmarks/continuation.py --checkpoint DIR [--asr DIR] [--prompts 100] [--batch-size 50] [--rounds 3]

DIR: a work folder of configs/quickstart.py or digits.py. The prompts are those of its own counting world; the
recogniser is the work folder's ctc stage, the language model its text stage, where it has them. Both ways are run once
before anything is timed (compilation), then in turn, each time into an empty folder; their results must agree in every
transcript. The page of pictures, the same work either way, is not written. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from spectron.evaluation.counting.world import digit_cuts, pick_items
from spectron.evaluation.judges.language_models import load_language_model
from spectron.evaluation.report import page
from spectron.evaluation.suites.continuation import OURS, continue_items
from spectron.evaluation.suites.generation import load_generator
from spectron.evaluation.suites.judge_runner import Judges
from spectron.evaluation.suites.utterances import SplitUtterance
from spectron.inference.api import Spectron
from spectron.recognition.recogniser import load_recogniser

REPEATS = 12  # takes of every sequence and speaker: enough of them for any number of prompts


def panel(work: Path) -> Judges:
    """The judges that the same training made."""
    stages = {name: work / name for name in ("ctc", "text") if (work / name).is_dir()}
    return Judges(
        asr=load_recogniser(stages["ctc"]) if "ctc" in stages else None,
        lm=load_language_model(stages["text"]) if "text" in stages else None,
    )


def run(
    generator: Spectron, items: list[SplitUtterance], judges: Judges, facts: dict, rows: int
) -> tuple[float, list[str]]:
    """Seconds of the whole suite in an empty folder, and the transcripts."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        continue_items(generator, items, folder, judges, {**facts, "batch_size": rows}, 1, rows)
        seconds = time.perf_counter() - began
        lines = [json.loads(line) for line in (Path(folder) / "items.jsonl").read_text().splitlines()]
    return seconds, [line["transcript"] for line in lines if line["row"] == OURS]


def decode(generator: Spectron, items: list[SplitUtterance], rows: int) -> float:
    """Seconds of decoding and vocoding alone: judges that fill up their batches have no part in it."""
    began = time.perf_counter()
    generator.generate([item.prompt for item in items], 0, rows)
    return time.perf_counter() - began


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    page.write = lambda *_: None
    generator, facts = load_generator(arguments.checkpoint, arguments.set, 1, 1, 0)
    examples = pick_items(generator.experiment, REPEATS, arguments.prompts)
    items, _ = digit_cuts(examples, (), generator.features)
    judges, ways = panel(arguments.checkpoint), {"batched": arguments.batch_size, "one by one": 1}
    for rows in ways.values():
        run(generator, items[: arguments.batch_size], judges, facts, rows)
    suite: dict[str, list[float]] = {name: [] for name in ways}
    alone: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        said = {}
        for name, rows in ways.items():
            seconds, said[name] = run(generator, items, judges, facts, rows)
            suite[name].append(seconds)
            alone[name].append(decode(generator, items, rows))
            print(f"{name}: {seconds:.1f} s, decoding alone {alone[name][-1]:.1f} s", file=sys.stderr)
        apart = sum(a != b for a, b in zip(*said.values(), strict=True))
        # Sums are made in another order: of near ties one may fall the other way.
        assert apart <= 0.02 * len(items), f"{apart} of {len(items)} transcripts differ"
    print(f"\n{len(items)} prompts of {generator.experiment.name!r}, {arguments.batch_size} rows against one:\n")
    print("| | batched, median s | min–max | one by one, median s | min–max | ratio |\n|---|---:|---|---:|---|---:|")
    for name, found in (("the suite, judges and copies included", suite), ("decoding alone", alone)):
        middle = {way: statistics.median(times) for way, times in found.items()}
        cells = [f"{middle[way]:.1f} | {min(times):.1f}–{max(times):.1f}" for way, times in found.items()]
        print(f"| {name} | {' | '.join(cells)} | {middle['one by one'] / middle['batched']:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
