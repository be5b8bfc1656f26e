"""The sources that a task's `source` names, and the way to add one."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import math
import zlib
from collections.abc import Callable

import numpy as np

from spectron.config import DataConfig, Experiment, FeatureConfig, TaskConfig
from spectron.data.counting.utterances import CountingText, DigitSource
from spectron.data.example import BadExample, Source
from spectron.data.fitting import report
from spectron.data.normalising import KEEP
from spectron.data.packed import PackedSource
from spectron.data.recordings import RecordingSource
from spectron.data.shard_source import ShardSource
from spectron.data.text_source import TextSource
from spectron.types import UserError

FINGERPRINTED = 8  # ours: records that are read for a source's fingerprint
AT_ONCE = 1 << 20  # ours: lengths that are hashed together, for the memory of many records
# kind → (task, data, features, seed) → source
SOURCES: dict[str, Callable[[TaskConfig, DataConfig, FeatureConfig, int], Source]] = {
    "manifest": lambda task, data, features, seed: RecordingSource(task, data, features),
    "librispeech": lambda task, data, features, seed: RecordingSource(task, data, features),
    "ljspeech": lambda task, data, features, seed: RecordingSource(task, data, features),
    "shards": lambda task, data, features, seed: ShardSource(task, data, features),
    "counting": DigitSource,
    "random_digits": DigitSource,
    "spoken_digits": DigitSource,
    "counting_text": lambda task, data, features, seed: CountingText(),
    "text": lambda task, data, features, seed: TextSource(task, data, features),
}


def make_source(task: TaskConfig, data: DataConfig, features: FeatureConfig, seed: int = 0) -> Source:
    """The source a task names; what it leaves out is logged.

    Raises UserError for an unknown kind, data that is not there, and a source of which nothing is left.
    """
    if task.source not in SOURCES:
        close = difflib.get_close_matches(task.source, SOURCES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"use one of: {', '.join(SOURCES)}."
        raise UserError(f"data.tasks.{task.name}.source {task.source!r} is unknown; {hint}")
    source = SOURCES[task.source](task, data, features, seed)
    if task.normaliser != KEEP and not source.normalises:
        raise UserError(
            f"data.tasks.{task.name}.normaliser {task.normaliser!r} does not apply to the source {task.source!r}; "
            f"set it to {KEEP!r}."
        )
    report(task, source)
    return source


def source_of(experiment: Experiment, task_name: str, seed: int | None = None) -> Source:
    """The source of a task: its packed folder if data.packed is set, else the data itself.

    seed: None takes the experiment's. Two tasks of one kind draw different utterances.
    """
    data, features = experiment.data, experiment.features
    task = next((t for t in data.tasks if t.name == task_name), None)
    if data.packed:
        packed = PackedSource(data.packed, task_name, data, features)
        report(task or TaskConfig(task_name, "packed"), packed)
        return packed
    if task is None:
        known = ", ".join(t.name for t in data.tasks)
        raise UserError(f"There is no task {task_name!r} in data.tasks; known: {known}.")
    seed = experiment.seed if seed is None else seed
    return make_source(task, data, features, zlib.crc32(f"{seed}/{task_name}".encode()))


def fingerprint(source: Source) -> str:
    """A hash of what a source holds, wherever it lies: how many records, their lengths, and a few of them whole."""
    digest = hashlib.sha256(f"{len(source)}\n".encode())
    if source.lengths is not None:
        for start in range(0, len(source.lengths), AT_ONCE):
            digest.update(np.asarray(source.lengths[start : start + AT_ONCE], np.int64).tobytes())
    for i in np.unique(np.linspace(0, len(source) - 1, FINGERPRINTED).astype(int)) if len(source) else ():
        try:
            example = source[int(i)]
        except BadExample:
            continue
        digest.update(f"{i}\n{example.text}\n".encode())
        digest.update(np.ascontiguousarray(example.samples, np.int16).tobytes())
    return digest.hexdigest()


def unlimited(data: DataConfig) -> DataConfig:
    """The data config with limits that fit utterances of every length."""
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
