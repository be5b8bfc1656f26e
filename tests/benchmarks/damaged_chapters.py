"""Cut chapters that are damaged at random, and look for utterances that hold the sound of another place.

    python tests/benchmarks/damaged_chapters.py --out DIR [--chapters 1000] [--seed 0] [--without-md5]

Every chapter is one of a few recordings of noise with bytes flipped, cut, zeroed or spliced, or with whole frames
moved, which leaves every checksum of a frame right. Both pipelines cut them, Libri-Light's and Libriheavy's. An
utterance is foreign if its samples are not those of its place in the undamaged recording. --without-md5: files that
lack the checksum of all samples; frames swapped for another recording's of the same numbers, which cannot be found in
them, are left out.
Prints a table, and exits with 1 if a foreign utterance was kept. About four minutes on one core, 3 GB on disk.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from damaged_flac import KINDS, damage, without_md5  # noqa: E402
from librilight_tree import RATE, add_chapter, talk  # noqa: E402

from spectron.corpora import pipelines  # noqa: E402
from spectron.corpora.cutting import CuttingConfig  # noqa: E402
from spectron.corpora.libriheavy import cut_libriheavy  # noqa: E402
from spectron.data.shards import Shards  # noqa: E402
from spectron.types import UserError  # noqa: E402

INLINE = ("--runner", "inline")
SPANS = [[0.96, 6.0], [7.04, 12.0], [13.04, 19.04], [20.0, 29.04], [30.0, 37.0], [39.0, 47.0], [48.0, 57.0]]
SECONDS = 58.0


def make_chapters(root: Path, count: int, seed: int, md5: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """ROOT/tree and ROOT/cuts.jsonl: damaged chapters; returns the whole samples, and the kind of damage, by name."""
    rng = np.random.default_rng(seed)
    recordings = [talk(SPANS, SECONDS, seed=number) for number in range(4)]
    sources = [add_chapter(root / "sources", f"a/b/{i}", x, SPANS) for i, x in enumerate(recordings)]
    contents = [path.read_bytes() if md5 else without_md5(path.read_bytes()) for path in sources]
    kinds_tried = KINDS if md5 else [kind for kind in KINDS if kind != "swap"]
    whole, kinds, lines = {}, {}, []
    for number in range(count):
        chosen, other = rng.choice(len(sources), 2, replace=False)
        kind = kinds_tried[number % len(kinds_tried)]
        name = f"small/{number % 50}/book/{number:05d}"
        path = root / "tree" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damage(kind, contents[chosen], contents[other], rng))
        shutil.copy(sources[chosen].with_suffix(".json"), path.with_suffix(".json"))
        whole[name], kinds[name] = recordings[chosen], kind
        starts = np.round(rng.uniform(0, SECONDS - 9, 4), 3)
        lines += [_cut_line(name, i, float(start), float(rng.uniform(5, 9))) for i, start in enumerate(sorted(starts))]
    (root / "cuts.jsonl").write_text("".join(lines))
    return whole, kinds


def _cut_line(name: str, number: int, start: float, duration: float) -> str:
    text = {"text": "WORDS", "speaker": "7"}
    row = {"id": f"{name}_{number}", "start": start, "duration": duration, "recording": {"id": name}}
    return json.dumps({**row, "supervisions": [text]}) + "\n"


def foreign(folder: Path, whole: dict[str, np.ndarray], kinds: dict[str, str]) -> dict[str, list[int]]:
    """Kind of damage → [utterances kept, those of them that hold other samples than their place in the recording]."""
    counts: dict[str, list[int]] = {kind: [0, 0] for kind in KINDS}
    try:
        shards = Shards(folder)
    except UserError:  # nothing was kept
        return counts
    for utterance in (shards[i] for i in range(len(shards))):
        start = round(utterance.start * RATE)
        expected = whole[utterance.recording][start : start + utterance.num_samples]
        count = counts[kinds[utterance.recording]]
        count[0] += 1
        count[1] += not np.array_equal(utterance.samples(), expected)
    return counts


def run(root: Path, chapters: int, seed: int = 0, md5: bool = True) -> dict[str, Any]:
    """Damage chapters and cut them in both ways; pipeline → kind of damage → [kept, foreign], and why not kept."""
    whole, kinds = make_chapters(root, chapters, seed, md5)
    tree, cutting = root / "tree", CuttingConfig(min_seconds=4.0)
    reports = {
        "librilight": pipelines.cut(tree, root / "librilight", pipelines.CorpusConfig(cutting=cutting), options=INLINE),
        "libriheavy": cut_libriheavy(root / "cuts.jsonl", tree, root / "libriheavy", cutting, options=INLINE),
    }
    return {
        name: {
            "counts": foreign(root / name, whole, kinds),
            "left out": {reason: each["count"] for reason, each in report["rejected"].items()},
        }
        for name, report in reports.items()
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--chapters", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-md5", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    logging.disable(logging.WARNING)
    results = run(arguments.out, arguments.chapters, arguments.seed, not arguments.without_md5)
    print("| pipeline | damage | utterances kept | foreign |\n|---|---|---:|---:|")
    total: collections.Counter[str] = collections.Counter()
    for name, result in results.items():
        for kind, (kept, wrong) in result["counts"].items():
            print(f"| {name} | {kind} | {kept} | {wrong} |")
            total.update(kept=kept, foreign=wrong)
    print(json.dumps({**total, **{name: result["left out"] for name, result in results.items()}}, indent=1))
    sys.exit(1 if total["foreign"] else 0)


if __name__ == "__main__":
    main()
