"""What every source does to its texts and records: normalise, count tokens, and leave out what does not fit a batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.example import Source
from spectron.data.normalising import KEEP, make_normaliser
from spectron.data.vocabulary import make_vocabulary
from spectron.types import UserError
from spectron.utils.environment import cache_folder
from spectron.utils.stored_arrays import digest, stored_arrays

log = logging.getLogger(__name__)

SPARE_TOKENS = 2  # eos and SentencePiece's leading space: a text has at most as many tokens as bytes, plus these
GROWTH = 3  # a text in another case has at most so many times as many bytes of UTF-8
SMALL = 10_000  # ours: what is known of fewer records is computed at every start
AT_ONCE = 10_000  # ours: texts given to the tokenizer together
WITHOUT_TEXT, TOO_MANY = "without text", "more tokens than max_tokens"  # reasons
NAMED = 5  # ours: number of rejected records named in the log; `rejected` has all of them


class Fitting:
    """The normaliser of a task, and the limits of the data config."""

    def __init__(self, task: TaskConfig, data: DataConfig, features: FeatureConfig):
        self._data = data
        self._rate = features.sample_rate
        self._vocabulary = make_vocabulary(data.vocabulary)
        self._normaliser = task.normaliser
        self._normalise = make_normaliser(task.normaliser, data.vocabulary)

    def text(self, raw: str) -> str:
        """A text as it is trained on: its words separated by single spaces, in the case of the task's normaliser."""
        return self._normalise(" ".join(raw.split()))

    def misfit(self, seconds: float, prompt: float, text: str, tokens: int | None = None) -> str:
        """Why an utterance cannot be used; "" if it can.

        seconds, prompt: its length and its prompt's, in seconds. tokens: of the text, if they have been counted.
        """
        data = self._data
        if seconds < prompt + data.min_continuation_seconds:
            return "shorter than the prompt plus min_continuation_seconds"
        if seconds > data.max_seconds:
            return "longer than max_seconds"
        if prompt > data.max_prompt_seconds:
            return "prompt longer than max_prompt_seconds"
        if seconds - prompt > data.max_continuation_seconds:
            return "continuation longer than max_continuation_seconds"
        return self.text_misfit(text, tokens)

    def text_misfit(self, text: str, tokens: int | None = None) -> str:
        """Why a text, as `text` gives it, cannot be used; "" if it can. tokens: their number, if it is known."""
        if not text:
            return WITHOUT_TEXT
        if len(text.encode()) + SPARE_TOKENS <= self._data.max_tokens:
            return ""
        count = int(self.tokens([text])[0]) if tokens is None else tokens
        return TOO_MANY if count > self._data.max_tokens else ""

    def may_be_long(self, most_bytes: int, raw: bool) -> bool:
        """Whether one of several texts can have more tokens than max_tokens. most_bytes: of the longest, in UTF-8.
        raw: before `text`."""
        growth = 1 if not raw or self._normaliser == KEEP else GROWTH
        return most_bytes * growth + SPARE_TOKENS > self._data.max_tokens

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N]: tokens of each text, as `text` gives it, including eos."""
        parts = [self._vocabulary.counts(texts[i : i + AT_ONCE]) for i in range(0, len(texts), AT_ONCE)]
        return np.concatenate([np.zeros(0, np.int32), *parts]) + np.int32(1)

    def stored_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """The same; if there are many texts, they are counted at the first start and kept in the cache folder."""
        if len(texts) < SMALL:
            return self.tokens(texts)
        key = digest([self.checksum(), *texts])
        place = cache_folder() / "tokens" / key[:32]
        return stored_arrays([place], key, lambda: {"tokens": self.tokens(texts)})["tokens"]

    def checksum(self) -> str:
        """SHA-256 of what the tokens of a raw text depend on: vocabulary and normaliser."""
        return digest([self._vocabulary.checksum(), self._normaliser])


def total_left_out(source: Source) -> int:
    """How many records a source left out."""
    return sum(map(len, source.rejected.values()))


def share_left_out(source: Source) -> float:
    """The share of a source's records that it left out; 0 for an empty source."""
    count = total_left_out(source)
    return count / max(count + len(source), 1)


def summary(task: TaskConfig, source: Source) -> str:
    """One line for the log: how many records are used, in which case, and what was left out why, with some names."""
    count = total_left_out(source)
    line = f"Task {task.name!r}: {len(source):,} of {len(source) + count:,} records are used"
    if task.normaliser != KEEP:
        line += f", texts normalised by {task.normaliser!r}"
    if count:
        line += f"; left out {100 * share_left_out(source):.1f} %: {reasons(source.rejected, NAMED)}"
    return f"{line}."


def reasons(rejected: Mapping[str, Sequence[str]], named: int = 1) -> str:
    """Counts and reasons of what was left out, the most frequent first, each with its first names in brackets."""
    parts = []
    for reason, ids in sorted(rejected.items(), key=lambda item: -len(item[1])):
        more = ", …" if len(ids) > named else ""
        parts.append(f"{len(ids):,} {reason} ({', '.join(ids[:named])}{more})")
    return "; ".join(parts)


def report(task: TaskConfig, source: Source) -> None:
    """Log what a source uses and leaves out. Raises UserError if no example is left."""
    if not len(source):
        why = reasons(source.rejected) or "its root is empty"
        raise UserError(
            f"Task {task.name!r} has no usable example ({why}); correct the data or the limits in the data config."
        )
    if total_left_out(source):
        log.warning("%s", summary(task, source))
    elif task.normaliser != KEEP:
        log.info("%s", summary(task, source))


def check_left_out(task: str, source: Source, data: DataConfig) -> None:
    """Raise UserError, with the reasons counted, if a task loses a larger share than data.max_left_out."""
    share = share_left_out(source)
    if share > data.max_left_out:
        raise UserError(
            f"Task {task!r} loses {100 * share:.1f} % of its records, more than data.max_left_out "
            f"({data.max_left_out:g}): {reasons(source.rejected)}; change data's limits, the task's normaliser or the "
            f"vocabulary, or raise data.max_left_out."
        )
