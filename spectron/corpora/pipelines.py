"""Corpora in three steps, each restartable by shard: cut (or convert), label, write.

A folder of shards is made by one command with one set of settings (corpus.json). A restarted command makes only the
missing shards; the files are the same, byte for byte, as those of a run without interruption.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from spectron.audio.vad import VadConfig
from spectron.config import DataConfig, FeatureConfig, TaskConfig, check_settings
from spectron.config.checks import RULES
from spectron.config.rules import FREE, POSITIVE
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.labelling import label, shards_fingerprint
from spectron.corpora.labels import Label, clean_text, labels_path, read_labels
from spectron.corpora.librilight import Chapter, Rejected, SpeakerSplitConfig, list_chapters, utterances_of
from spectron.corpora.librilight import split as split_chapters
from spectron.corpora.report import name_hashes, write_report
from spectron.corpora.shard_jobs import fingerprint, run_shards, settings_of, under_construction
from spectron.data.example import BadExample, Source
from spectron.data.shards import Shards, Utterance, encode_flac, is_finished, read_shard, shard_path, write_shard
from spectron.data.sources import make_source, unlimited
from spectron.types import UserError

__all__ = ["LabelFilter", "cut", "from_task", "label", "write"]

MAX_CHARACTERS = 2000  # ours: more than anyone says in 30 s; a longer text belongs to another recording
SPLITS = ("all", "train", "dev", "test")


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """How Libri-Light becomes shards."""

    cutting: CuttingConfig = dataclasses.field(default_factory=CuttingConfig)
    vad: VadConfig = dataclasses.field(default_factory=VadConfig)  # for chapters whose JSON has no voice activity
    splits: SpeakerSplitConfig = dataclasses.field(default_factory=SpeakerSplitConfig)
    shard_megabytes: float = 256.0  # ours: size of the chapters in one shard


RULES[CorpusConfig] = {"cutting": FREE, "vad": FREE, "splits": FREE, "shard_megabytes": POSITIVE}


DEFAULT = CorpusConfig()


class LabelFilter(Protocol):
    """Decides which labels are kept."""

    def reason(self, label: Label) -> str:
        """Why an utterance with this label is left out; "" keeps it. Depends on the label alone."""
        ...


def cut(
    root: str | Path,
    out: str | Path,
    config: CorpusConfig = DEFAULT,
    split: str = "all",
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Cut Libri-Light into shards of utterances without text; returns the report that is also written to OUT.

    split: "all", or "train", "dev" or "test", which share no speaker and no book. Raises UserError.
    """
    check_settings(config)
    if split not in SPLITS:
        raise UserError(f"--split {split!r} is unknown; use one of: {', '.join(SPLITS)}.")
    chapters = list_chapters(root)
    left_out: dict[str, str] = {}
    input_hash = fingerprint((c.name, c.size) for c in chapters)
    if split != "all":
        parts, left_out = split_chapters(chapters, config.splits)
        chapters = parts[split]
        if not chapters:
            raise UserError(
                f"{str(root)!r} has no speaker for the split {split!r}; raise its share or use --split all."
            )
    groups = list(_groups(chapters, config.shard_megabytes * 1e6))
    settings = {**settings_of(config), "split": split, "input": input_hash}
    with under_construction(out, "cut", settings, len(groups)) as folder:
        work = CutShard(str(folder), config.cutting, config.vad)
        run_shards(work, list(enumerate(groups)), work.finished, options, "shards cut")
        return write_report(folder, {"chapters of a book in another split": sorted(left_out)} if left_out else {})


def _groups(chapters: Sequence[Chapter], max_bytes: float) -> Iterator[list[Chapter]]:
    """Consecutive chapters of at most max_bytes together, at least one."""
    group: list[Chapter] = []
    size = 0
    for chapter in chapters:
        if group and size + chapter.size > max_bytes:
            yield group
            group = []
            size = 0
        group.append(chapter)
        size += chapter.size
    if group:
        yield group


@dataclasses.dataclass(frozen=True)
class CutShard:
    """Cuts the chapters of one shard; sent to the workers."""

    out: str
    config: CuttingConfig
    vad: VadConfig

    def finished(self, item: tuple[int, list[Chapter]]) -> bool:
        """Whether the shard is complete."""
        return is_finished(shard_path(self.out, item[0]))

    def __call__(self, item: tuple[int, list[Chapter]]) -> None:
        """Cut the chapters and write the shard."""
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
    """Write a task's recordings as shards; returns the report that is also written to OUT.

    task: of kind manifest, librispeech or shards; recordings of every length are taken. keep_text: False leaves the
    texts empty. speakers: names whose recordings are taken; None takes all. Raises UserError.
    """
    unlimited_data = unlimited(data)
    source = make_source(task, unlimited_data, features)
    work = TaskShard(
        out=str(out),
        task=task,
        data=unlimited_data,
        features=features,
        keep_text=keep_text,
        speakers=None if speakers is None else tuple(sorted(speakers)),
        per_shard=per_shard,
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
        return write_report(folder, {reason: list(ids) for reason, ids in source.rejected.items()})


_sources: dict[Any, Source] = {}  # opened once per process


@dataclasses.dataclass(frozen=True)
class TaskShard:
    """Writes per_shard recordings of a task; sent to the workers."""

    out: str
    task: TaskConfig
    data: DataConfig
    features: FeatureConfig
    keep_text: bool
    speakers: tuple[str, ...] | None
    per_shard: int

    def finished(self, number: int) -> bool:
        """Whether the shard is complete."""
        return is_finished(shard_path(self.out, number))

    def __call__(self, number: int) -> None:
        """Write shard `number`."""
        if self not in _sources:
            _sources[self] = make_source(self.task, self.data, self.features)
        rejected: Rejected = {}
        write_shard(shard_path(self.out, number), self._utterances(_sources[self], number, rejected), rejected)

    def _utterances(self, source: Source, number: int, rejected: Rejected) -> Iterator[Utterance]:
        speakers = None if self.speakers is None else set(self.speakers)
        ids: set[str] = set()
        for i in range(number * self.per_shard, min(len(source), (number + 1) * self.per_shard)):
            try:
                example = source[i]
            except BadExample as error:
                rejected.setdefault("recordings that cannot be used", []).append(str(error))
                continue
            if speakers is not None and example.speaker not in speakers:
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
    """The chapter in an id of the form SPEAKER-CHAPTER-NUMBER; "" for other ids."""
    return librispeech_id.split("-")[1] if librispeech_id.count("-") == 2 else ""


def write(
    shards: str | Path,
    out: str | Path,
    labels: str | Path | None = None,
    selection: LabelFilter | None = None,
    max_characters: int = MAX_CHARACTERS,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Join shards with their labels and filter them; returns the report that is also written to OUT.

    labels: a folder that `label` wrote; None keeps the shards' own texts. selection: decides which labels are kept;
    None keeps every text of at most max_characters. Raises UserError.
    """
    source = Shards(shards)
    count = len(source.paths)
    files = [] if labels is None else [labels_path(labels, i) for i in range(count)]
    missing = sum(not path.is_file() for path in files)
    if missing:
        raise UserError(f"{str(labels)!r} has no labels of {missing} of {count} shards; run spectron data label again.")
    settings = {
        "input": shards_fingerprint(source),
        "labels": fingerprint(hashlib.sha256(path.read_bytes()).hexdigest() for path in files) if labels else None,
        "selection": settings_of(selection),
        "max_characters": max_characters,
    }
    with under_construction(out, "write", settings, count) as folder:
        work = WriteShard(
            out=str(folder),
            shards=tuple(map(str, source.paths)),
            labels=tuple(map(str, files)),
            selection=selection,
            max_characters=max_characters,
            duplicates=duplicates(source),
        )
        run_shards(work, range(count), work.finished, options, "shards written")
        return write_report(folder, {})


@dataclasses.dataclass(frozen=True)
class WriteShard:
    """Joins one shard with its labels and filters it; sent to the workers."""

    out: str
    shards: tuple[str, ...]
    labels: tuple[str, ...]  # label files; (): the shards' own texts
    selection: LabelFilter | None
    max_characters: int
    duplicates: dict[int, list[int]]  # shard → records with a repeated id

    def finished(self, number: int) -> bool:
        """Whether the shard is complete."""
        return is_finished(shard_path(self.out, number))

    def __call__(self, number: int) -> None:
        """Write shard `number`."""
        rejected: Rejected = {}
        write_shard(shard_path(self.out, number), self._utterances(number, rejected), rejected)

    def _utterances(self, number: int, rejected: Rejected) -> Iterator[Utterance]:
        labels = {label.id: label for label in read_labels(self.labels[number])} if self.labels else None
        repeated = set(self.duplicates.get(number, ()))
        for record, utterance in enumerate(read_shard(self.shards[number])):
            if record in repeated:
                rejected.setdefault("duplicate ids", []).append(utterance.id)
                continue
            utterance_label = own_label(utterance) if labels is None else labels.get(utterance.id)
            reason = "without a label" if utterance_label is None else self._reason(utterance_label)
            if utterance_label is None or reason:
                rejected.setdefault(reason, []).append(utterance.id)
                continue
            yield utterance._replace(
                text=clean_text(utterance_label.text),
                labelled_by=utterance_label.labelled_by,
                score=utterance_label.score,
                tokens=utterance_label.tokens,
            )

    def _reason(self, utterance_label: Label) -> str:
        if not clean_text(utterance_label.text):
            return "without text"
        if len(utterance_label.text) > self.max_characters:
            return "text longer than max_characters"
        return self.selection.reason(utterance_label) if self.selection else ""


def own_label(utterance: Utterance) -> Label:
    """The text that an utterance carries, as a label."""
    return Label(
        id=utterance.id,
        text=utterance.text,
        score=utterance.score,
        tokens=utterance.tokens,
        seconds=utterance.seconds,
        labelled_by=utterance.labelled_by,
    )


def duplicates(shards: Shards) -> dict[int, list[int]]:
    """Shard → its records whose id an earlier utterance has already."""
    hashes = []
    for number in range(len(shards.paths)):
        index = shards.index(number)
        hashes.append(name_hashes(index.strings("id")))
        index.close()
    all_hashes = np.concatenate(hashes)
    repeated = np.ones(len(all_hashes), bool)
    repeated[np.unique(all_hashes, return_index=True)[1]] = False
    records: dict[int, list[int]] = {}
    for i in np.flatnonzero(repeated).tolist():
        shard, record = shards.place(i)
        records.setdefault(shard, []).append(record)
    return records
