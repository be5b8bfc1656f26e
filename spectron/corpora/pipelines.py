"""Corpora in three steps, each restartable by shard: cut (or convert), label, write.

A folder of shards is made by one command with one set of settings (corpus.json). A finished shard is never redone;
killed at any moment and started again, the folder ends up byte for byte as if nothing had happened.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spectron.audio.vad import VadConfig
from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.labelling import label, shards_fingerprint
from spectron.corpora.labels import Label, clean_text, labels_path, read_labels
from spectron.corpora.librilight import Chapter, Rejected, SplitConfig, list_chapters, utterances_of
from spectron.corpora.librilight import split as split_chapters
from spectron.corpora.report import name_hashes, write_report
from spectron.corpora.shard_jobs import fingerprint, run_shards, settings_of, under_construction
from spectron.data.example import BadExample, Source
from spectron.data.shards import Shards, Utterance, encode_flac, is_finished, read_shard, shard_path, write_shard
from spectron.data.sources import make_source, unlimited
from spectron.types import UserError

__all__ = ["Selection", "cut", "from_task", "label", "write"]

MAX_CHARACTERS = 2000  # ours: no 30 s hold more; a longer text belongs to something else
SPLITS = ("all", "train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """How Libri-Light becomes shards."""

    cutting: CuttingConfig = dataclasses.field(default_factory=CuttingConfig)
    vad: VadConfig = dataclasses.field(default_factory=VadConfig)  # where the JSON has no voice activity
    splits: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    shard_megabytes: float = 256.0  # ours: of the chapters' FLAC in one shard


DEFAULT = CorpusConfig()


class Selection(Protocol):
    """Which labels are good enough."""

    def reason(self, label: Label) -> str:
        """Why an utterance with this label is left out; "" keeps it. A function of the label alone."""
        ...


def cut(
    root: str | Path,
    out: str | Path,
    config: CorpusConfig = DEFAULT,
    split: str = "all",
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Libri-Light on disk → shards of utterances without text, and a report, which is returned.

    split: "all", or one of "train", "dev" and "test" with no speaker or book in two. Raises UserError.
    """
    config.cutting.check()
    if split not in SPLITS:
        raise UserError(f"--split {split!r} is unknown; use one of: {', '.join(SPLITS)}.")
    chapters = list_chapters(root)
    left_out: dict[str, str] = {}
    seen = fingerprint((c.name, c.size) for c in chapters)
    if split != "all":
        parts, left_out = split_chapters(chapters, config.splits)
        chapters = parts[split]
        if not chapters:
            raise UserError(f"{str(root)!r} has no speaker for the split {split!r}; raise its share or cut all.")
    groups = list(_groups(chapters, config.shard_megabytes * 1e6))
    settings = {
        **settings_of(config),
        "split": split,
        "input": seen,
    }
    with under_construction(out, "cut", settings, len(groups)) as folder:
        work = CutShard(str(folder), config.cutting, config.vad)
        run_shards(work, list(enumerate(groups)), work.finished, options, "shards cut")
        left = {"chapters of a book in another split": sorted(left_out)} if left_out else {}
        return write_report(folder, left)


def _groups(chapters: Sequence[Chapter], most_bytes: float) -> Iterator[list[Chapter]]:
    group: list[Chapter] = []
    size = 0
    for chapter in chapters:
        if group and size + chapter.size > most_bytes:
            yield group
            group, size = [], 0
        group.append(chapter)
        size += chapter.size
    if group:
        yield group


@dataclasses.dataclass(frozen=True)
class CutShard:
    """The chapters of one shard, for whichever process does them."""

    out: str
    config: CuttingConfig
    vad: VadConfig

    def finished(self, item: tuple[int, list[Chapter]]) -> bool:
        """Whether the shard is there."""
        return is_finished(shard_path(self.out, item[0]))

    def __call__(self, item: tuple[int, list[Chapter]]) -> None:
        """Cut them."""
        number, chapters = item
        rejected: Rejected = {}
        spans = (u for chapter in chapters for u in utterances_of(chapter, self.config, self.vad, rejected))
        write_shard(shard_path(self.out, number), spans, rejected)


def from_task(
    task: TaskConfig,
    data: DataConfig,
    features: FeatureConfig,
    out: str | Path,
    keep_text: bool = False,
    speakers: Collection[str] | None = None,
    per_shard: int = 1000,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """The recordings of a task (kind manifest, librispeech or shards) → shards, and a report, which is returned.

    All lengths are taken. keep_text: with the task's own texts; else as if nobody had written them down. speakers: only
    theirs; None takes all. Raises UserError.
    """
    wide = unlimited(data)
    source = make_source(task, wide, features)
    work = TaskShard(
        str(out), task, wide, features, keep_text, None if speakers is None else tuple(sorted(speakers)), per_shard
    )
    numbers = range(-(-len(source) // per_shard))
    settings = {
        "task": settings_of(dataclasses.replace(task, root="")),
        "sample_rate": features.sample_rate,
        "keep_text": keep_text,
        "speakers": None if speakers is None else fingerprint(sorted(speakers)),
        "per_shard": per_shard,
        "input": fingerprint([len(source), *(() if source.lengths is None else source.lengths)]),
    }
    with under_construction(out, "task", settings, len(numbers)) as folder:
        _sources[work] = source
        run_shards(work, numbers, work.finished, options, "shards written")
        return write_report(folder, source.rejected)


_sources: dict[Any, Source] = {}  # one per process


@dataclasses.dataclass(frozen=True)
class TaskShard:
    """Some recordings of a task."""

    out: str
    task: TaskConfig
    data: DataConfig
    features: FeatureConfig
    keep_text: bool
    speakers: tuple[str, ...] | None
    per_shard: int

    def finished(self, number: int) -> bool:
        """Whether the shard is there."""
        return is_finished(shard_path(self.out, number))

    def __call__(self, number: int) -> None:
        """Write shard `number`."""
        if self not in _sources:
            _sources[self] = make_source(self.task, self.data, self.features)
        rejected: Rejected = {}
        write_shard(shard_path(self.out, number), self._utterances(_sources[self], number, rejected), rejected)

    def _utterances(self, source: Source, number: int, rejected: Rejected) -> Iterator[Utterance]:
        wanted = None if self.speakers is None else set(self.speakers)
        ids: set[str] = set()
        for i in range(number * self.per_shard, min(len(source), (number + 1) * self.per_shard)):
            try:
                example = source[i]
            except BadExample as error:
                rejected.setdefault("recordings that cannot be used", []).append(str(error))
                continue
            if wanted is not None and example.speaker not in wanted:
                continue
            if example.id in ids:
                rejected.setdefault("duplicate ids", []).append(example.id)
                continue
            ids.add(example.id)
            yield Utterance(
                id=example.id,
                speaker=example.speaker,
                book=_book(example.id) if self.task.source == "librispeech" else "",
                audio=encode_flac(example.samples, self.features.sample_rate),
                sample_rate=self.features.sample_rate,
                num_samples=len(example.samples),
                text=clean_text(example.text) if self.keep_text else "",
                recording=example.id,
            )


def _book(librispeech_id: str) -> str:
    """LibriSpeech's names are SPEAKER-CHAPTER-NUMBER."""
    return librispeech_id.split("-")[1] if librispeech_id.count("-") == 2 else ""


def write(
    shards: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    selection: Selection | None = None,
    max_characters: int = MAX_CHARACTERS,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Shards and their labels → shards that training reads, and a report, which is returned.

    labels: a folder that `label` wrote; None keeps the shards' own texts. selection: which labels to keep; None keeps
    all that have a text of at most max_characters. Raises UserError.
    """
    source = Shards(shards)
    count = len(source.paths)
    files = [] if labels is None else [labels_path(labels, i) for i in range(count)]
    missing = sum(not path.is_file() for path in files)
    if missing:
        raise UserError(
            f"{str(labels)!r} lacks the labels of {missing} of {count} shards; run spectron data label again."
        )
    settings = {
        "input": shards_fingerprint(source),
        "labels": fingerprint(hashlib.sha256(path.read_bytes()).hexdigest() for path in files) if labels else None,
        "selection": settings_of(selection),
        "max_characters": max_characters,
    }
    with under_construction(out, "write", settings, count) as folder:
        paths, texts = tuple(map(str, source.paths)), tuple(map(str, files))
        work = WriteShard(str(folder), paths, texts, selection, max_characters, duplicates(source))
        run_shards(work, range(count), work.finished, options, "shards written")
        return write_report(folder, {})


@dataclasses.dataclass(frozen=True)
class WriteShard:
    """One shard joined with its labels and filtered."""

    out: str
    shards: tuple[str, ...]
    labels: tuple[str, ...]
    selection: Selection | None
    max_characters: int
    duplicates: dict[int, list[int]]

    def finished(self, number: int) -> bool:
        """Whether the shard is there."""
        return is_finished(shard_path(self.out, number))

    def __call__(self, number: int) -> None:
        """Write shard `number`."""
        rejected: Rejected = {}
        write_shard(shard_path(self.out, number), self._utterances(number, rejected), rejected)

    def _utterances(self, number: int, rejected: Rejected) -> Iterator[Utterance]:
        labels = {x.id: x for x in read_labels(self.labels[number])} if self.labels else None
        repeated = set(self.duplicates.get(number, ()))
        for record, utterance in enumerate(read_shard(self.shards[number])):
            if record in repeated:
                rejected.setdefault("duplicate ids", []).append(utterance.id)
                continue
            if labels is None:
                found: Label | None = own_label(utterance)
            else:
                found = labels.get(utterance.id)
            reason = "without a label" if found is None else self._reason(found)
            if found is None or reason:
                rejected.setdefault(reason, []).append(utterance.id)
                continue
            yield utterance._replace(
                text=clean_text(found.text), labelled_by=found.labelled_by, score=found.score, tokens=found.tokens
            )

    def _reason(self, found: Label) -> str:
        if not clean_text(found.text):
            return "without text"
        if len(found.text) > self.max_characters:
            return "text longer than max_characters"
        return self.selection.reason(found) if self.selection else ""


def own_label(utterance: Utterance) -> Label:
    """What an utterance itself says of its text."""
    return Label(
        utterance.id, utterance.text, utterance.score, utterance.tokens, utterance.seconds, utterance.labelled_by
    )


def duplicates(shards: Shards) -> dict[int, list[int]]:
    """Shard → its records whose id an earlier utterance has."""
    hashes = []
    for number in range(len(shards.paths)):
        index = shards.index(number)
        hashes.append(name_hashes(index.strings("id")))
        index.close()
    everyone = np.concatenate(hashes)
    repeated = np.ones(len(everyone), bool)
    repeated[np.unique(everyone, return_index=True)[1]] = False
    found: dict[int, list[int]] = {}
    for i in np.flatnonzero(repeated).tolist():
        shard, record = shards.place(i)
        found.setdefault(shard, []).append(record)
    return found
