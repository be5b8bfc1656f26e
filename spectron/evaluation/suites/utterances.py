"""Utterances of a task cut in two: the prompt that the model hears, and the real continuation."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from spectron.config import DataConfig, Experiment, TaskConfig
from spectron.data.counting.utterances import GAP_SECONDS
from spectron.data.example import BadExample
from spectron.data.sources import make_source, unlimited
from spectron.evaluation.suite import reasons
from spectron.types import Example, UserError
from spectron.utils.chunk_cache import checksum
from spectron.utils.spacing import evenly_spaced, evenly_spaced_order

log = logging.getLogger(__name__)

COUNTING_SOURCES = ("counting", "random_digits", "spoken_digits")  # they make utterances by the limits of `data`
UNUSABLE = "that cannot be used"
Check = tuple[str, Callable[[Example], bool]]  # why an utterance is left out, and whether one passes


@dataclasses.dataclass(frozen=True)
class SplitUtterance:
    """One utterance. prompt, rest: int16 [S]; text: of both; prompt_words: how many of its words the prompt holds, −1
    if that is not known."""

    id: str
    speaker: str
    prompt: Int[np.ndarray, " S"]
    rest: Int[np.ndarray, " S"]
    text: str
    prompt_words: int = -1

    @property
    def words(self) -> list[str]:
        """The text's words in lower case, separated by spaces."""
        return self.text.lower().split()

    def follows(self, prompt_words: int) -> str:
        """The words after the prompt's."""
        return " ".join(self.words[prompt_words:])


def task_of(name: str, experiment: Experiment) -> TaskConfig:
    """A task of the experiment by its name, or KIND:ROOT (manifest, librispeech, shards). Raises UserError."""
    kind, sign, root = name.partition(":")
    if sign and kind in ("manifest", "librispeech", "shards"):
        return TaskConfig(name, kind, root=root)
    for task in experiment.data.tasks:
        if task.name == name:
            return task
    tasks = ", ".join(task.name for task in experiment.data.tasks)
    raise UserError(f"--task {name!r} is unknown; give one of the checkpoint's ({tasks or 'none'}) or manifest:PATH.")


def cut(example: Example, samples: int) -> SplitUtterance:
    """An utterance whose first `samples` are the prompt."""
    prompt_words = sum(end <= samples for end in example.word_ends) if example.word_ends else -1
    prompt, rest = example.samples[:samples], example.samples[samples:]
    return SplitUtterance(example.id, example.speaker, prompt, rest, " ".join(example.text.split()), prompt_words)


def cut_after_words(example: Example, words: int, sample_rate: int, hop: int) -> SplitUtterance:
    """An utterance of the counting world whose first words are the prompt: cut half the least gap after them, at a
    multiple of the hop.

    Raises UserError if the ends of words are not known, or no word would follow.
    """
    if not 0 < words < len(example.word_ends):
        raise UserError(
            f"{example.id!r} cannot be cut after {words} words; give prompts of 1 to {len(example.word_ends) - 1}."
        )
    samples = example.word_ends[words - 1] + round(GAP_SECONDS[0] / 2 * sample_rate)
    return cut(example, samples // hop * hop)


def read_examples(
    experiment: Experiment,
    task: str,
    split: str = "",
    seconds: float = 0.0,
    limit: int = 0,
    checks: Sequence[Check] = (),
) -> tuple[list[Example], dict[str, int]]:
    """A task's utterances that are long enough to be continued, and how many were left out, by reason.

    task: one of the experiment's, or KIND:PATH. split: instead of the task's own. seconds: length of the prompt, which
    min_continuation_seconds must follow; 0: prompts as the task has them. checks: further conditions. limit: at
    most so many, evenly spaced; another one takes the place of one that is left out. Raises UserError.
    """
    config = task_of(task, experiment)
    if split:
        config = dataclasses.replace(config, split=split, size=0)  # the new split's own size
    data = experiment.data if config.source in COUNTING_SOURCES else _any_length(experiment.data, seconds)
    source = make_source(config, data, experiment.features, experiment.seed)
    left_out = {reason: len(ids) for reason, ids in source.rejected.items()}
    chosen: dict[int, Example] = {}
    least = round((seconds + experiment.data.min_continuation_seconds) * experiment.features.sample_rate)
    long_enough = "shorter than the prompt plus min_continuation_seconds", lambda e: len(e.samples) >= least
    conditions = [*([long_enough] if seconds else []), *checks]
    for i in _order(len(source), limit):
        if limit and len(chosen) == limit:
            break
        try:
            example = source[i]
        except BadExample as error:
            log.warning("Left out: %s", error)
            reason = UNUSABLE
        else:
            reason = next((why for why, passes in conditions if not passes(example)), "")
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            chosen[i] = example
    if not chosen:
        raise UserError(
            f"--task {task!r} has no utterance left to continue: {reasons(left_out) or 'it is empty'}; choose another "
            f"--task or prompt length, or --set larger limits."
        )
    return [chosen[i] for i in sorted(chosen)], left_out


def _order(count: int, limit: int) -> list[int]:
    """Indices below `count`: first `limit` evenly spaced ones, then all others, to replace what is left out."""
    first = evenly_spaced(range(count), limit or count)
    chosen = set(first)
    return [*first, *(i for i in evenly_spaced_order(count) if i not in chosen)]


def keep(examples: Sequence[Example], left_out: dict[str, int], check: Check) -> list[Example]:
    """Drop the examples that fail a check, and add their number to `left_out`, which is changed.

    Raises UserError if none is left.
    """
    reason, passes = check
    kept = [example for example in examples if passes(example)]
    if len(kept) < len(examples):
        left_out[reason] = len(examples) - len(kept)
    if not kept:
        raise UserError(f"All {len(examples)} utterances are left out, {reason}; --set a larger one.")
    return kept


def speakable(experiment: Experiment, samples: int = 0) -> Check:
    """Passes if the model has time to say what follows the first `samples` (0: the example's own prompt)."""
    seconds = experiment.data.max_continuation_seconds
    most = round(seconds * experiment.features.sample_rate)
    reason = f"with more after the prompt than data.max_continuation_seconds={seconds:g}"
    return reason, lambda e: len(e.samples) - (samples or e.prompt_samples) <= most


def _any_length(data: DataConfig, seconds: float) -> DataConfig:
    """The data's limits with no maximum length."""
    return dataclasses.replace(
        unlimited(data),
        prompt_seconds=seconds or data.prompt_seconds,
        min_continuation_seconds=data.min_continuation_seconds,
    )


def data_facts(name: str, items: Sequence[SplitUtterance]) -> dict[str, object]:
    """The data's entry in the results: name, number of items, and a checksum of sounds and texts."""
    fields = (field for item in items for field in (item.id.encode(), item.text.encode(), item.prompt, item.rest))
    digest = checksum(field if isinstance(field, bytes) else field.tobytes() for field in fields)
    return {"name": name, "items": len(items), "checksum": digest}
