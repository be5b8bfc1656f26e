"""A continuation suite small enough to be killed and started again by tests: `python restarting.py OUT LOG`.

A real model of random parameters, noise for prompts, judges that count. LOG gets a line for every batch before it is
decoded: the places of its items, and which batches were kept when this process began.
"""

import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (2, 3)]

import numpy as np  # noqa: E402
from inference.test_decode import make_generator, prompts  # noqa: E402
from models import tiny  # noqa: E402

from spectron.evaluation.suite import WORK  # noqa: E402
from spectron.evaluation.suites.continuation import continue_items  # noqa: E402
from spectron.evaluation.suites.judge_runner import Judges  # noqa: E402
from spectron.evaluation.suites.utterances import SplitUtterance  # noqa: E402
from spectron.types import Hypothesis  # noqa: E402

ITEMS, SEEDS, BATCH = 40, 2, 2


class Ears:
    """Hears a word for every tenth of a second."""

    name, facts = "ears", {"role": "asr", "name": "ears", "version": "1"}

    def transcribe(self, recordings):
        return [Hypothesis(" ".join(["one"] * (len(r) // 1600 + 1)), 0.0, 0) for r in recordings]


class Reader:
    """Finds sounds of another length otherwise likely."""

    facts = {"role": "lm", "name": "reader", "version": "1"}  # noqa: RUF012

    def score(self, texts):
        return [(-float(np.sqrt(len(t))), len(t.split())) for t in texts]


def main() -> None:
    """Run the suite."""
    out, log = Path(sys.argv[1]), Path(sys.argv[2])
    kept = sorted(str(p.relative_to(out)) for p in out.glob(f"{WORK}/answers-*/0*"))
    generator = make_generator(tiny.experiment(prenet_dropout=0.5))
    generate = generator.generate

    def logged(prompts, seed, batch_size, numbers, forced):
        with log.open("a") as lines:
            lines.write(json.dumps({"batch": f"{WORK}/answers-{seed}/{numbers[0]:07d}", "kept": kept}) + "\n")
        return generate(prompts, seed, batch_size, numbers, forced)

    generator.generate = logged
    items = [SplitUtterance(f"i{i}", "", p, p[::-1].copy(), "one two three", 1) for i, p in enumerate(prompts(ITEMS))]
    continue_items(generator, items, out, Judges(Ears(), Reader()), {"checkpoint": "noise"}, SEEDS, BATCH)


if __name__ == "__main__":
    main()
