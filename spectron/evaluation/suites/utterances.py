"""Utterances cut in two for evaluation: what the model hears, and what truly follows."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.config import DataConfig, Experiment, override
from spectron.data.counting.utterances import GAP_SECONDS
from spectron.data.example import BadExample
from spectron.data.sources import make_source, unlimited
from spectron.evaluation.picking import spread, spreading
from spectron.evaluation.scores.text_scores import plain_words
from spectron.evaluation.suites.answers import checksum
from spectron.evaluation.suites.recognition import task_of
from spectron.inference.api import Spectron
from spectron.types import Example, UserError

log = logging.getLogger(__name__)

WORLD = ("counting", "random_digits", "spoken_digits")  # sources that make their utterances by data's limits
Check = tuple[str, Callable[[Example], bool]]  # why an utterance is left out, and which ones are not


@dataclasses.dataclass(frozen=True)
class Item:
    """One utterance. prompt, rest: int16 [S]; text: of both; heard: how many of its words the prompt holds, -1 if
    nobody knows."""

    id: str
    speaker: str
    prompt: Int[np.ndarray, " S"]
    rest: Int[np.ndarray, " S"]
    text: str
    heard: int = -1

    @property
    def words(self) -> list[str]:
        """The text's words in lower case, as they stand between spaces."""
        return self.text.lower().split()

    def plain(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The same without accents and punctuation, as errors are counted; of so many words only."""
        return plain_words(" ".join(self.words[start:stop]))


def cut(example: Example, samples: int) -> Item:
    """An utterance whose first `samples` are the prompt."""
    heard = sum(end <= samples for end in example.word_ends) if example.word_ends else -1
    parts = example.samples[:samples], example.samples[samples:]
    return Item(example.id, example.speaker, *parts, " ".join(example.text.split()), heard)


def cut_after_words(example: Example, words: int, sample_rate: int, hop: int) -> Item:
    """An utterance of the counting world whose first words are the prompt: half the least gap behind them, on the grid.

    Raises UserError where it is not known when words end, or none would follow.
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
    """A task's utterances that hold such a prompt and min_continuation_seconds more; how many were left out, by reason.

    task: one of the experiment's, or KIND:PATH. split: instead of the task's own. seconds 0: prompts as the task has
    them. checks: what else they must pass. limit: only so many, evenly spread; where one is left out, another takes its
    place. Raises UserError.
    """
    chosen = task_of(task, experiment)
    if split:
        chosen = dataclasses.replace(chosen, split=split, size=0)  # the new split's own size
    data = experiment.data if chosen.source in WORLD else _roomy(experiment.data, seconds)
    source = make_source(chosen, data, experiment.features, experiment.seed)
    left_out = {reason: len(ids) for reason, ids in source.rejected.items()}
    found: dict[int, Example] = {}
    least = round((seconds + experiment.data.min_continuation_seconds) * experiment.features.sample_rate)
    long_enough = "shorter than the prompt plus min_continuation_seconds", lambda e: len(e.samples) >= least
    for i in _order(len(source), limit):
        try:
            example = source[i]
        except BadExample as error:
            log.warning("Left out: %s", error)
            reason = "that cannot be used"
        else:
            asked = [*([long_enough] if seconds else []), *checks]
            reason = next((why for why, passes in asked if not passes(example)), "")
            if not reason:
                found[i] = example
                if len(found) == limit:
                    break
                continue
        left_out[reason] = left_out.get(reason, 0) + 1
    if not found:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(
            f"--task {task!r} has no utterance left to continue: {why or 'it is empty'}; choose another --task or "
            f"prompt length, or --set larger limits."
        )
    return [found[i] for i in sorted(found)], left_out


def _order(count: int, limit: int) -> list[int]:
    """Numbers below `count`: so many of them evenly spread, then the others, to take the place of any left out."""
    first = spread(range(count), limit or count)
    chosen = set(first)
    return [*first, *(i for i in spreading(count) if i not in chosen)]


def keep(examples: Sequence[Example], left_out: dict[str, int], check: Check) -> list[Example]:
    """Those that pass; the others are counted in left_out, by the reason. Raises UserError where none is left."""
    reason, passes = check
    kept = [example for example in examples if passes(example)]
    if len(kept) < len(examples):
        left_out[reason] = len(examples) - len(kept)
    if not kept:
        raise UserError(f"All {len(examples)} utterances are left out, {reason}; --set a larger one.")
    return kept


def speakable(experiment: Experiment, samples: int = 0) -> Check:
    """Has a model the time to say what stands behind so many samples (0: behind the example's own prompt)?"""
    seconds = experiment.data.max_continuation_seconds
    most = round(seconds * experiment.features.sample_rate)
    reason = f"with more behind the prompt than data.max_continuation_seconds={seconds:g}"
    return reason, lambda e: len(e.samples) - (samples or e.prompt_samples) <= most


def _roomy(data: DataConfig, seconds: float) -> DataConfig:
    """Utterances of every length that is enough."""
    least = data.min_continuation_seconds
    return dataclasses.replace(
        unlimited(data), prompt_seconds=seconds or data.prompt_seconds, min_continuation_seconds=least
    )


def with_room(generator: Spectron, prompts: Sequence[Int[np.ndarray, " S"]], seconds: float = 0.0) -> Spectron:
    """The generator, or one that takes longer prompts and speaks for so many seconds, more than it was trained for."""
    rate, data = generator.features.sample_rate, generator.experiment.data
    longest = math.ceil(100 * max(map(len, prompts), default=0) / rate) / 100
    room = max(longest, data.max_prompt_seconds), max(seconds, data.max_continuation_seconds)
    if room == (data.max_prompt_seconds, data.max_continuation_seconds):
        return generator
    if longest > data.max_prompt_seconds:
        trained = f"{data.max_prompt_seconds:g} s"
        log.warning("Prompts of up to %.2f s: longer than the %s this model was trained for.", longest, trained)
    data = dataclasses.replace(data, max_prompt_seconds=room[0], max_continuation_seconds=room[1])
    wider = dataclasses.replace(generator.experiment, data=data)
    return Spectron(generator.params, wider, generator.statistics)


def configured(generator: Spectron, overrides: Sequence[str]) -> Spectron:
    """The generator with other settings, "key=value" each: made anew, since it keeps what follows from them."""
    if not overrides:
        return generator
    return Spectron(generator.params, override(generator.experiment, overrides), generator.statistics)


def plan_of(generator: Spectron, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a generator's answers, beside prompts and seed."""
    data = generator.experiment.data
    room = [data.max_prompt_seconds, data.max_continuation_seconds, data.max_tokens]
    return {**{key: facts.get(key) for key in ("checkpoint", "weights", "set")}, "room": room}


def data_facts(name: str, items: Sequence[Item]) -> dict[str, object]:
    """What results say of the data: its name, how many items, and a checksum of sound and text."""
    parts = (part for item in items for part in (item.id.encode(), item.text.encode(), item.prompt, item.rest))
    return {
        "name": name,
        "items": len(items),
        "checksum": checksum(p if isinstance(p, bytes) else p.tobytes() for p in parts),
    }
