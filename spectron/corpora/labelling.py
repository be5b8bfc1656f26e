"""Labelling: a recogniser transcribes shards. A restarted run resumes after the last complete batch."""

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

WINDOW = 16  # ours: number of batches whose utterances are sorted by length together, to reduce padding
SAMPLE_RATE = 16_000  # Hz, the input of recognisers
MAX_FAILURES = 8  # ours: after this many failures in a row the recogniser is at fault, not the recordings

Factory = Callable[[], Recogniser]
_labellers: dict[bytes, Labeller] = {}  # pickled factory → its recogniser, shared by all threads of the process
_lock = threading.Lock()
_open_shards = functools.lru_cache(4)(Shards)


def shards_fingerprint(shards: Shards) -> str:
    """A hash of the names and sizes of a folder's shards."""
    return fingerprint((path.name, index_path(path).stat().st_size, path.stat().st_size) for path in shards.paths)


def label(
    shards: str | Path, out: str | Path, factory: Factory, name: str, batch_size: int = 16, options: Sequence[str] = ()
) -> None:
    """Transcribe every utterance of a folder of shards: OUT/shard-00000.jsonl for each shard.

    factory: picklable, creates the recogniser, called once per process. name: identifies the recogniser in OUT's
    settings. A restarted run continues. Raises UserError.
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
            _labellers.clear()  # frees the accelerator's memory


@dataclasses.dataclass(frozen=True)
class LabelShard:
    """Labels one shard; sent to the workers."""

    shards: str
    out: str
    factory: Factory
    batch_size: int

    def finished(self, number: int) -> bool:
        """Whether the shard's label file exists."""
        return labels_path(self.out, number).is_file()

    def journal(self, number: int) -> Path:
        """File with the labels of an unfinished shard, one batch per line."""
        return Path(self.out) / f".shard-{number:05d}.journal"

    def __call__(self, number: int) -> None:
        """Label a shard."""
        import fcntl

        labeller = _labeller(self.factory)
        with self.journal(number).open("a+b") as journal:
            # A worker of a pipeline that was killed may still be writing.
            fcntl.flock(journal, fcntl.LOCK_EX)
            if not self.finished(number):
                self._label(number, labeller, journal)
            self.journal(number).unlink(missing_ok=True)

    def _label(self, number: int, labeller: Labeller, journal: IO[bytes]) -> None:
        shards = _open_shards(self.shards)
        start = int(shards.starts[number])
        index = Index(shards.paths[number])
        ids = index.strings("id")
        index.close()
        batches = make_batches(shards.lengths[start : int(shards.starts[number + 1])], self.batch_size)
        labels: dict[int, Label] = {}
        earlier = _read_journal(journal, len(batches))
        for batch, batch_labels in zip(batches, earlier, strict=False):
            labels.update(zip(batch, batch_labels, strict=True))
        for batch in batches[len(earlier) :]:
            batch_labels = labeller.label([shards[start + i] for i in batch])
            journal.write(json.dumps(batch_labels).encode() + b"\n")
            journal.flush()
            labels.update(zip(batch, batch_labels, strict=True))
        write_labels(labels_path(self.out, number), [labels[i] for i in range(len(ids))])


def _labeller(factory: Factory) -> Labeller:
    key = pickle.dumps(factory)  # not its identity: every shard of a pipeline unpickles its own copy
    with _lock:
        if key not in _labellers:
            _labellers[key] = Labeller(factory())
        return _labellers[key]


def make_batches(lengths: np.ndarray, batch_size: int) -> list[list[int]]:
    """Indices of a shard's records in batches of similar length; depends on the lengths alone."""
    batches = []
    for first in range(0, len(lengths), WINDOW * batch_size):
        window = first + np.argsort(lengths[first : first + WINDOW * batch_size], kind="stable")
        batches += [window[i : i + batch_size].tolist() for i in range(0, len(window), batch_size)]
    return batches


def _read_journal(journal: IO[bytes], max_batches: int) -> list[list[Label]]:
    """The complete lines of a journal; an incomplete last line of a killed writer is removed from the file."""
    journal.seek(0)
    batches: list[list[Label]] = []
    valid_bytes = 0
    for line in journal:
        try:
            rows = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            rows = None
        if rows is None or len(batches) == max_batches:
            break
        batches.append([Label(*row) for row in rows])
        valid_bytes += len(line)
    journal.truncate(valid_bytes)
    journal.seek(valid_bytes)
    return batches


class Labeller:
    """Transcribes utterances; a recording that fails gets an empty text instead of stopping the run."""

    def __init__(self, recogniser: Recogniser):
        self._recogniser = recogniser
        self._failures = 0  # in a row

    def label(self, utterances: Sequence[Utterance]) -> list[Label]:
        """One label per utterance. An utterance that cannot be read or transcribed gets text "" and score NaN.

        Raises UserError after MAX_FAILURES failures of the recogniser in a row.
        """
        readable = dict(_readable(utterances))
        heard = self.transcribe([utterances[i].id for i in readable], list(readable.values()))
        hypotheses = dict(zip(readable, heard, strict=True))
        empty = Hypothesis("", math.nan, 0)
        return [_to_label(u, hypotheses.get(i, empty), self._recogniser.name) for i, u in enumerate(utterances)]

    def transcribe(self, names: Sequence[str], recordings: Sequence[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] each at 16 kHz → one hypothesis each; text "" and score NaN for a recording that fails.

        names: for messages. Raises UserError after MAX_FAILURES failures of the recogniser in a row.
        """
        if not recordings:
            return []
        try:
            hypotheses = self._recogniser.transcribe(list(recordings))
            self._failures = 0
            return hypotheses
        except Exception as error:
            log.warning(
                "Recogniser %r failed on a batch (%s); trying its utterances one by one.", self._recogniser.name, error
            )
            return [self._transcribe_one(*each) for each in zip(names, recordings, strict=True)]

    def _transcribe_one(self, name: str, samples: np.ndarray) -> Hypothesis:
        try:
            hypothesis = self._recogniser.transcribe([samples])[0]
        except Exception as error:
            self._failures += 1
            log.warning("Recogniser %r failed on %r: %s", self._recogniser.name, name, error)
            if self._failures >= MAX_FAILURES:
                raise UserError(
                    f"Recogniser {self._recogniser.name!r} failed on {MAX_FAILURES} utterances in a row, the last "
                    f"{name!r}: {error}"
                ) from error
            return Hypothesis("", math.nan, 0)
        self._failures = 0
        return hypothesis


def _readable(utterances: Sequence[Utterance]) -> Iterator[tuple[int, np.ndarray]]:
    """(index, int16 [S]) of every utterance whose audio can be decoded."""
    for i, utterance in enumerate(utterances):
        try:
            samples = utterance.samples()
            wav.check_digest(utterance.audio, samples, utterance.id)
            if utterance.sample_rate != SAMPLE_RATE:
                samples = wav.decode_bytes(utterance.audio, utterance.id, SAMPLE_RATE)
            yield i, samples
        except UserError as error:
            log.warning("Not labelled: %s", error)


def _to_label(utterance: Utterance, hypothesis: Hypothesis, recogniser: str) -> Label:
    return Label(
        id=utterance.id,
        text=clean_text(hypothesis.text),
        score=float(hypothesis.score),
        tokens=int(hypothesis.tokens),
        seconds=round(utterance.seconds, 4),
        labelled_by=recogniser,
    )
