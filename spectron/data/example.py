"""What every source of examples is, and the error of a record that cannot be used."""

from __future__ import annotations

import abc
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spectron.types import Example

# The type of every field of an Example but its samples: int, str or tuple[int, ...]. Packed files and seqio's tasks
# derive from it, so that a new field of Example needs no change there.
EXAMPLE_FIELDS = {name: hint for name, hint in typing.get_type_hints(Example).items() if name != "samples"}


class BadExample(Exception):
    """One record that cannot be used; the message names the file and says why."""


class Source(abc.ABC):
    """Examples by number. Reading one may fail; the feed then takes another.

    rejected: reason → ids of the records that were left out when the source was created. text_only: no example has
    sound. reads_files: reading an example waits for a disk, so that several threads pay off. seeded: another seed gives
    other records; sources of which that is not so are opened once for all streams of a stage. normalises: its texts
    have passed the task's normaliser (see Fitting.text).

    What a source can state about its records without reading them, int64 [N] each, or None; buckets use it. lengths:
    samples at the features' rate; prompts: how many of them are the prompt (None: data.prompt_seconds); tokens: of the
    text, with eos.
    """

    rejected: Mapping[str, Sequence[str]]
    text_only: bool = False
    reads_files: bool = False
    seeded: bool = True
    normalises: bool = False
    lengths: np.ndarray | None = None
    prompts: np.ndarray | None = None
    tokens: Any = None  # an array, or a property that counts when it is asked

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, i: int) -> Example:
        """Record i. Raises BadExample when it cannot be used."""

    def text_of(self, i: int) -> str:
        """The text of record i; "" if it cannot be used. Overridden where it is known without reading the audio."""
        try:
            return self[i].text
        except BadExample:
            return ""
