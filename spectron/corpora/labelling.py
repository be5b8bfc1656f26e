"""Shards → labels, by any recogniser. A batch that was labelled is never labelled again, whenever the process dies."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from spectron.audio import wav
from spectron.corpora.labels import Label, clean_text, labels_path, write_labels
from spectron.corpora.shard_jobs import fingerprint, run_shards, under_construction
from spectron.data.shards import Index, Shards, Utterance, index_path
from spectron.types import Hypothesis, Recogniser, UserError

log = logging.getLogger(__name__)

WINDOW = 16  # ours, batches: utterances of so many are sorted by length, so that batches are even
SAMPLE_RATE = 16_000  # what recognisers take
ENOUGH = 8  # ours: failures in a row that are the recogniser's, not the recordings'

Factory = Callable[[], Recogniser]
_labellers: dict[bytes, Labeller] = {}  # one per process, however many threads
_lock = threading.Lock()
_opened = functools.lru_cache(4)(Shards)


def shards_fingerprint(shards: Shards) -> str:
    """A name for the utterances of a folder."""
    return fingerprint((path.name, index_path(path).stat().st_size, path.stat().st_size) for path in shards.paths)


def label(
    shards: str | Path, out: str | Path, factory: Factory, name: str, batch_size: int = 16, options: Sequence[str] = ()
) -> None:
    """Label every utterance of a folder of shards: OUT/shard-00000.jsonl beside each.

    factory: picklable, makes the recogniser, once per process. name: what stands for it in the folder's settings.
    Started again it goes on where it was. Raises UserError.
    """
    source = Shards(shards)
    settings = {"recogniser": name, "batch_size": batch_size, "input": shards_fingerprint(source)}
    with under_construction(out, "label", settings, len(source.paths)) as folder:
        work = LabelShard(str(source.folder), str(folder), factory, batch_size)
        for number in range(len(source.paths)):
            if work.finished(number):
                work.journal(number).unlink(missing_ok=True)
        try:
            run_shards(work, range(len(source.paths)), work.finished, options, "shards labelled")
        finally:
            _labellers.clear()  # the accelerator's memory is for others now


@dataclasses.dataclass(frozen=True)
class LabelShard:
    """The work of one shard, for whichever process does it."""

    shards: str
    out: str
    factory: Factory
    batch_size: int

    def finished(self, number: int) -> bool:
        """Whether shard `number` has its labels."""
        return labels_path(self.out, number).is_file()

    def journal(self, number: int) -> Path:
        """Batches labelled so far of a shard that is not finished: a line each."""
        return Path(self.out) / f".shard-{number:05d}.journal"

    def __call__(self, number: int) -> None:
        """Label a shard."""
        import fcntl

        labeller = _labeller(self.factory)
        with self.journal(number).open("a+b") as journal:
            # A worker whose pipeline was killed may still be at it.
            fcntl.flock(journal, fcntl.LOCK_EX)
            if not self.finished(number):
                self._label(number, labeller, journal)
            self.journal(number).unlink(missing_ok=True)

    def _label(self, number: int, labeller: Labeller, journal: IO[bytes]) -> None:
        shards = _opened(self.shards)
        start = int(shards.starts[number])
        index = Index(shards.paths[number])
        ids = index.strings("id")
        index.close()
        batches = make_batches(shards.lengths[start : int(shards.starts[number + 1])], self.batch_size)
        labels: dict[int, Label] = {}
        known = _labelled(journal, len(batches))
        for batch, done in zip(batches, known, strict=False):
            labels.update(zip(batch, done, strict=True))
        for batch in batches[len(known) :]:
            made = labeller.label([shards[start + i] for i in batch])
            journal.write(json.dumps(made).encode() + b"\n")
            journal.flush()
            labels.update(zip(batch, made, strict=True))
        write_labels(labels_path(self.out, number), [labels[i] for i in range(len(ids))])


def _labeller(factory: Factory) -> Labeller:
    key = pickle.dumps(factory)  # every shard of a pipeline unpickles a factory of its own
    with _lock:
        if key not in _labellers:
            _labellers[key] = Labeller(factory())
        return _labellers[key]


def make_batches(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """Records of one shard in batches of about one length; a function of the lengths alone."""
    batches = []
    for first in range(0, len(lengths), WINDOW * batch_size):
        window = first + np.argsort(lengths[first : first + WINDOW * batch_size], kind="stable")
        batches += [window[i : i + batch_size].tolist() for i in range(0, len(window), batch_size)]
    return batches


def _labelled(journal: IO[bytes], most: int) -> list[list[Label]]:
    """The whole lines of a journal; what a killed writer left of another is cut off."""
    journal.seek(0)
    batches: list[list[Label]] = []
    good = 0
    for line in journal:
        try:
            rows = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            rows = None
        if rows is None or len(batches) == most:
            break
        batches.append([Label(*row) for row in rows])
        good += len(line)
    journal.truncate(good)
    journal.seek(good)
    return batches


class Labeller:
    """A recogniser that one bad recording does not stop."""

    def __init__(self, recogniser: Recogniser):
        self._recogniser, self._failures = recogniser, 0  # in a row

    def label(self, utterances: Sequence[Utterance]) -> list[Label]:
        """Labels in order. An utterance that cannot be read or recognised gets an empty text and NaN as its score.

        Raises UserError where the recogniser fails on ENOUGH utterances in a row.
        """
        readable = dict(_readable(utterances))
        heard: dict[int, Hypothesis] = {}
        if readable:
            try:
                heard = dict(zip(readable, self._recogniser.transcribe(list(readable.values())), strict=True))
                self._failures = 0
            except Exception as error:
                log.warning("Recogniser %r failed on a batch (%s); one by one now.", self._recogniser.name, error)
                heard = {i: self._alone(utterances[i].id, samples) for i, samples in readable.items()}
        nothing = Hypothesis("", math.nan, 0)
        return [_labelled_as(u, heard.get(i, nothing), self._recogniser.name) for i, u in enumerate(utterances)]

    def _alone(self, name: str, samples: np.ndarray) -> Hypothesis:
        try:
            heard = self._recogniser.transcribe([samples])[0]
        except Exception as error:
            self._failures += 1
            log.warning("Recogniser %r failed on %r: %s", self._recogniser.name, name, error)
            if self._failures >= ENOUGH:
                raise UserError(
                    f"Recogniser {self._recogniser.name!r} failed on {ENOUGH} utterances in a row, the last "
                    f"{name!r}: {error}"
                ) from error
            return Hypothesis("", math.nan, 0)
        self._failures = 0
        return heard


def _readable(utterances: Sequence[Utterance]) -> Iterator[tuple[int, np.ndarray]]:
    for i, utterance in enumerate(utterances):
        try:
            samples = utterance.samples()
            if utterance.sample_rate != SAMPLE_RATE:
                samples = wav.decode_bytes(utterance.audio, utterance.id, SAMPLE_RATE)
            yield i, samples
        except UserError as error:
            log.warning("Not labelled: %s", error)


def _labelled_as(utterance: Utterance, heard: Hypothesis, name: str) -> Label:
    return Label(
        utterance.id,
        clean_text(heard.text),
        float(heard.score),
        int(heard.tokens),
        round(utterance.seconds, 4),
        name,
    )
