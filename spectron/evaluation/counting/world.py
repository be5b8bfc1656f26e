"""`spectron evaluate probes` of the counting world, and its test items cut after a given number of digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spectron.config import Experiment, FeatureConfig, WordsConfig
from spectron.data.counting.utterances import PROMPT_DIGITS, WORDS, is_held_out, test_items
from spectron.evaluation.counting.judges import check_judges_folder, get_judges
from spectron.evaluation.results import Results
from spectron.evaluation.suite import check_output
from spectron.evaluation.suites import probes
from spectron.evaluation.suites.generation import load_generator
from spectron.evaluation.suites.judge_runner import Judges
from spectron.evaluation.suites.utterances import SplitUtterance, cut, cut_after_words, keep
from spectron.types import Example, UserError
from spectron.utils.spacing import evenly_spaced

PROMPTS = (1, 2, 4)  # ours: digits heard, besides the three of training; with one the step is not known


def pick_items(experiment: Experiment, repeats: int, limit: int) -> list[Example]:
    """The test items. Raises UserError when the model cannot spell digits or the recordings are missing."""
    vocabulary = experiment.data.vocabulary
    if isinstance(vocabulary, WordsConfig) and not set(vocabulary.words) >= set(WORDS):
        raise UserError(
            f"Experiment {experiment.name!r} has no words for digits: this needs a checkpoint trained on the counting "
            f"world, such as configs/digits.py."
        )
    items = test_items(experiment.data, experiment.features, repeats)
    return evenly_spaced(items, limit or len(items))


def digit_cuts(
    examples: Sequence[Example], digits: Sequence[int], features: FeatureConfig
) -> tuple[list[SplitUtterance], dict[str, list[SplitUtterance]]]:
    """(the items as in training, name → the items with prompts of that many digits). Raises UserError."""
    full = [cut(example, example.prompt_samples) for example in examples]
    cuts = {
        f"prompt of {n} digit{'s' if n > 1 else ''}": [
            cut_after_words(example, n, features.sample_rate, features.hop) for example in examples
        ]
        for n in digits
        if n != PROMPT_DIGITS
    }
    return full, cuts


def closed_world(judges: Judges, items: Sequence[SplitUtterance]) -> probes.ClosedWorld:
    """The true speakers of the items' prompts, and which sequences speech training holds."""
    vectors = judges.speaker.vectors([item.speaker for item in items])
    return probes.ClosedWorld([[vector] for vector in vectors.tolist()], is_seen)


def is_seen(item: SplitUtterance) -> bool:
    """Whether speech training holds an item's sequence; the others occur in text alone."""
    return not is_held_out([WORDS.index(word) for word in item.words])


def evaluate_digit_probes(
    checkpoint: str | Path,
    out: str | Path,
    judges_dir: str | Path | None = None,
    prompts: Sequence[float] = (),
    text: str = "",
    seeds: int = probes.SEEDS,
    repeats: int = 1,
    batch_size: int = 8,
    limit: int = 0,
    overrides: Sequence[str] = (),
) -> Results:
    """`spectron evaluate probes` of the counting world; results and report.html in OUT. Resumes if interrupted.

    judges_dir: where its judges are kept (OUT/judges). prompts: lengths in digits. repeats: takes of each sequence by
    each speaker. Raises UserError.
    """
    probes.check_prompts(prompts, "whole numbers of digits", whole=True)
    check_output(out)
    check_judges_folder(judges_dir)
    generator, facts = load_generator(checkpoint, overrides, seeds, batch_size, limit)
    experiment, left_out = generator.experiment, dict[str, int]()
    fits = probes.check_text(generator, text)
    examples = keep(pick_items(experiment, repeats, limit), left_out, fits)
    digits = [int(n) for n in prompts or PROMPTS]
    facts |= {"task": "counting", "text": text, "repeats": repeats, "prompts": digits, "left_out": left_out}
    full, cuts = digit_cuts(examples, digits, experiment.features)
    judges = get_judges(experiment, judges_dir or Path(out) / "judges")
    return probes.probe(generator, full, cuts, out, judges, facts, text, closed_world(judges, full))
