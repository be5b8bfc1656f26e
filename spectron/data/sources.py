"""Random-access sources of examples, one per TaskConfig. Reading a record may fail; the feed then takes another."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.counting.utterances import CountingText, DigitSource
from spectron.data.recordings import BadExample, RecordingSource, TextSource
from spectron.data.shard_source import ShardSource
from spectron.types import Example, UserError

__all__ = ["KINDS", "BadExample", "Source", "make_source"]

KINDS = (
    "manifest",
    "librispeech",
    "ljspeech",
    "shards",
    "counting",
    "random_digits",
    "spoken_digits",
    "counting_text",
    "text",
)


class Source(Protocol):
    """Examples by number. rejected: reason → ids of what was left out for good when the source was made.

    What a source may know of its records before reading them, int64 [N] each, and buckets go by: `lengths` (samples at
    the features' rate), `prompts` (how many of them are the prompt; without it data.prompt_seconds), `tokens` (of the
    text, with eos).
    """

    rejected: dict[str, list[str]]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example:
        """Record i. Raises BadExample when it cannot be used."""
        ...


def make_source(task: TaskConfig, data: DataConfig, features: FeatureConfig, seed: int = 0) -> Source:
    """The source a task names. Raises UserError for an unknown kind or data that is not there."""
    if task.source in ("counting", "random_digits", "spoken_digits"):
        return DigitSource(task, data, features, seed)
    if task.source == "counting_text":
        return CountingText()
    if task.source in ("manifest", "librispeech", "ljspeech"):
        return RecordingSource(task, data, features)
    if task.source == "shards":
        return ShardSource(task, data, features)
    if task.source == "text":
        return TextSource(task, data, features)
    raise UserError(f"data.tasks.{task.name}.source {task.source!r} is unknown; use one of: {', '.join(KINDS)}.")


def unlimited(data: DataConfig) -> DataConfig:
    """The data config with room for utterances of every length."""
    return dataclasses.replace(
        data,
        packed="",
        prompt_seconds=0.0,
        min_continuation_seconds=0.0,
        max_seconds=math.inf,
        max_prompt_seconds=math.inf,
        max_continuation_seconds=math.inf,
        max_tokens=1 << 40,
    )
