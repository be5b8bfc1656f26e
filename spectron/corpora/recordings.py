"""A folder of recordings → a folder to train from, and what is wrong with the recordings.

The output folder holds manifest.jsonl (the usable recordings, split into train and held_out), texts.txt, pieces.model
(unless there is too little text), prepared.json, prompts/ (the start of some held-out recordings), problems.tsv and
inspect.html; and what was measured and heard, so that a second run is quick.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.audio import wav
from spectron.corpora.labelling import SAMPLE_RATE, Labeller
from spectron.corpora.labels import clean_text
from spectron.corpora.recording_checks import LONGEST, PROBLEMS, Checked, check_keep, check_sounds, check_texts
from spectron.data.layouts import Listing, list_recordings
from spectron.data.measuring import Store, in_threads, measure_all, progress, stamp_of
from spectron.data.prepared import FILE, HELD_OUT, MANIFEST, PIECES, TRAIN, Prepared
from spectron.data.text_source import TEXTS
from spectron.data.vocabulary import (
    CharacterVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    encode_target,
    make_pieces,
)
from spectron.types import UserError
from spectron.utils.files import check_out, write_bytes, write_text
from spectron.utils.spacing import evenly_spaced

# All of these are ours.
HELD_OUT_SHARE, HELD_OUT_SECONDS = 0.05, 3600.0  # of the time, but at most an hour
MIN_HELD_OUT = 8  # recordings, but at most a quarter of them
SPEAKER_SHARE = 0.2  # of the time: speakers are held out if they need not be more than this
MIN_CHARACTERS = 1_000  # of all texts: less is too little for pieces of words
CHARACTERS_PER_PIECE, MIN_PIECES, MAX_PIECES = 60, 100, 4_000
PROMPTS = 8  # recordings of which prompts/ has the start
BATCH = 64  # recordings read and transcribed together
UNUSED = "unused"  # a split that is neither trained on nor held out


@dataclasses.dataclass
class Inspection:
    """What was found. splits: of the usable recordings, by index."""

    listing: Listing
    checked: Checked
    splits: dict[int, str]

    @functools.cached_property
    def top(self) -> str:
        """The folder that all recordings have in common."""
        folders = {os.path.dirname(record.audio) for record in self.listing.records}
        return os.path.commonpath(folders) if folders else ""

    def hours(self, *splits: str) -> float:
        """Hours of the recordings of these splits; without any, of all recordings that can be read."""
        sounds = self.checked.sounds
        chosen = range(len(sounds)) if not splits else [i for i, split in self.splits.items() if split in splits]
        return sum(sounds[i].seconds for i in chosen) / 3600

    def count(self, split: str) -> int:
        """Recordings of a split."""
        return sum(each == split for each in self.splits.values())


def inspect_recordings(
    root: str | Path, out: str | Path | None = None, recogniser: str = "", keep: Sequence[str] = ()
) -> Inspection:
    """Check a folder of recordings, or a manifest, and prepare it in the folder `out` for configs/own.py.

    out: None only checks. recogniser: a folder, see load_recogniser: it writes the texts that are missing, and checks
    the others. keep: keys of problems (KEEPABLE) in spite of which recordings are used. If none is usable, `out` holds
    only the problems. Raises UserError.
    """
    check_keep(keep)
    place = _place(root, out)
    listing = list_recordings(root, place)
    sounds = measure_all([r.audio for r in listing.records], place and place / "measured.jsonl")
    checked = check_sounds(listing, sounds)
    if recogniser:
        _hear(checked, recogniser, place and place / "heard.jsonl", keep)
    check_texts(checked, keep)
    left_out = checked.left_out(keep)
    usable = [i for i in range(len(listing.records)) if i not in left_out]
    inspection = Inspection(listing, checked, split(checked, usable))
    if place:
        _write_problems(place / "problems.tsv", checked)
        if inspection.count(TRAIN):
            _write(place, inspection)
        else:
            (place / FILE).unlink(missing_ok=True)  # of an earlier run: it describes other recordings
    return inspection


def _place(root: str | Path, out: str | Path | None) -> Path | None:
    if out is None:
        return None
    check_out(out)
    place, given = Path(out), Path(root)
    if place.resolve() in (given.resolve(), given.resolve().parent if given.is_file() else None):
        raise UserError(f"--out {str(out)!r} is the recordings' own folder; choose another, or one below it.")
    return place


def _hear(checked: Checked, path: str, cache: Path | None, keep: Sequence[str]) -> None:
    """Transcribe all recordings that can be used, and take the transcripts of those without text for their texts."""
    from spectron.recognition.recogniser import load_recogniser, resolve_recogniser

    folder = resolve_recogniser(path)
    labeller = Labeller(load_recogniser(folder))
    left_out = checked.left_out(keep)
    records = checked.records
    wanted = [i for i in range(len(records)) if i not in left_out]
    store = Store(cache, str)
    stamps = {i: [folder, *stamp_of(records[i].audio)] for i in wanted}
    missing = [i for i in wanted if store.get(records[i].audio, stamps[i]) is None]
    missing.sort(key=lambda i: checked.sounds[i].seconds)  # like lengths together: less padding
    batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
    for batch in progress(batches, len(batches), f"hearing, batches of {BATCH}"):
        names = [records[i].audio for i in batch]
        samples = [samples for _, samples in in_threads(_read, names)]
        for i, hypothesis in zip(batch, labeller.transcribe(names, samples), strict=True):
            store.add(records[i].audio, stamps[i], clean_text(hypothesis.text))
    store.close()
    checked.heard = {i: store.values[records[i].audio][1] for i in wanted}
    for i, text in checked.heard.items():
        checked.texts[i] = checked.texts[i] or text
    labelled = sum(bool(text) and not records[i].text for i, text in checked.heard.items())
    if labelled:
        checked.notes.append(f"{labelled} recordings have no text and take what the recogniser hears.")


def _read(path: str) -> np.ndarray:
    try:
        return wav.read(path, SAMPLE_RATE)
    except UserError:  # it was readable when it was measured
        return np.zeros(0, np.int16)


def split(checked: Checked, usable: Sequence[int]) -> dict[int, str]:
    """The split of each usable recording: a manifest's own, or held-out speakers, or held-out recordings.

    Of a manifest's splits, all but "train" and "unused" are held out. The choice depends on names alone, so that more
    recordings change little of it.
    """
    records, sounds = checked.records, checked.sounds
    stated = {records[i].split for i in usable} - {"", UNUSED}
    if stated - {TRAIN}:
        known = {"": TRAIN, TRAIN: TRAIN, UNUSED: UNUSED}
        return {i: known.get(records[i].split, HELD_OUT) for i in usable}
    splits = {i: records[i].split or TRAIN for i in usable}
    candidates = [i for i in usable if splits[i] == TRAIN and sounds[i].seconds <= LONGEST]
    total = sum(sounds[i].seconds for i in candidates)
    target = min(HELD_OUT_SHARE * total, HELD_OUT_SECONDS)
    least = min(MIN_HELD_OUT, len(candidates) // 4)
    held_out = _speakers(checked, candidates, target, least) or _recordings(checked, candidates, target, least)
    return splits | dict.fromkeys(held_out, HELD_OUT)


def _speakers(checked: Checked, candidates: Sequence[int], target: float, least: int) -> list[int]:
    """All recordings of some speakers; [] if there are too few speakers for that."""
    speakers: dict[str, list[int]] = collections.defaultdict(list)
    for i in candidates:
        speakers[checked.records[i].speaker].append(i)
    times = {name: sum(checked.sounds[i].seconds for i in own) for name, own in speakers.items()}
    total = sum(times.values())
    chosen: list[int] = []
    time = 0.0
    for name in sorted(speakers, key=_hash):
        if time >= target and len(chosen) >= least:
            break
        if name and time + times[name] <= SPEAKER_SHARE * total:
            chosen += speakers[name]
            time += times[name]
    return chosen if len(chosen) >= least else []


def _recordings(checked: Checked, candidates: Sequence[int], target: float, least: int) -> list[int]:
    """Some recordings, first those whose text no other has; none of fewer than four, which leave little to train on."""
    counts = collections.Counter(checked.texts[i] for i in candidates)
    order = sorted(candidates, key=lambda i: (counts[checked.texts[i]] > 1, _hash(checked.records[i].audio)))
    chosen: list[int] = []
    time = 0.0
    for i in order if least else ():
        if time >= target and len(chosen) >= least:
            break
        chosen.append(i)
        time += checked.sounds[i].seconds
    return chosen


def _hash(name: str) -> bytes:
    return hashlib.sha256(Path(name).name.encode(errors="surrogateescape")).digest()


def _write(place: Path, inspection: Inspection) -> None:
    """Everything that training reads; prepared.json last."""
    checked, splits = inspection.checked, inspection.splits
    records, sounds = checked.records, checked.sounds
    (place / FILE).unlink(missing_ok=True)
    train = [i for i, split in splits.items() if split == TRAIN]
    held_out = [i for i, split in splits.items() if split == HELD_OUT]
    texts = list(dict.fromkeys(checked.texts[i] for i in train))
    characters, vocabulary = _vocabulary(place, texts)
    names: set[str] = set()
    lines = {i: _line(checked, i, splits[i], names) for i in sorted(splits)}
    write_text(place / MANIFEST, "".join(map(_encoded, lines.values())))
    write_text(place / TEXTS, "\n".join(texts) + "\n")
    every = sorted(sounds[i].seconds for i in train)
    lengths = np.array([s for s in every if s <= LONGEST] or every)
    time = np.cumsum(lengths)
    tokens = max(len(encode_target(vocabulary, checked.texts[i])[0]) for i in [*train, *held_out])
    prepared = Prepared(
        hours=round(float(time[-1]) / 3600, 4),
        recordings=len(train),
        held_out=len(held_out),
        speakers=len({records[i].speaker for i in train} - {""}),
        shortest=round(float(lengths[np.searchsorted(time, 0.05 * time[-1])]), 2),
        longest=round(float(lengths[-1]), 2),
        thirds=tuple(round(float(np.percentile(lengths, q)), 2) for q in (100 / 3, 200 / 3)),
        max_tokens=-(-tokens // 8) * 8,
        characters=characters,
    )
    prompts = [lines[i] for i in held_out if 1.5 * prepared.prompt_seconds <= sounds[i].seconds <= LONGEST]
    _write_prompts(place / "prompts", prompts, prepared.prompt_seconds)
    write_text(place / FILE, prepared.to_json())


def _line(checked: Checked, i: int, split: str, names: set[str]) -> dict[str, Any]:
    """A line of the manifest; ids are made unique."""
    record = checked.records[i]
    name = record.id
    while name in names:
        name = f"{record.id}-{len(names)}"
    names.add(name)
    line: dict[str, Any] = {
        "id": name,
        "audio": str(Path(record.audio).absolute()),
        "text": checked.texts[i],
        "speaker": record.speaker,
        "duration": checked.sounds[i].seconds,
        "split": split,
    }
    if record.prompt_seconds:
        line["prompt_seconds"] = record.prompt_seconds
    if record.word_ends:
        line["word_ends"] = record.word_ends
    return line if record.text else {**line, "labelled": True}


def _encoded(line: Mapping[str, Any]) -> str:
    """A line as JSON; escaped where the recording's name has bytes that are not UTF-8."""
    try:
        os.fsencode(line["audio"]).decode()
    except UnicodeDecodeError:
        return json.dumps(line) + "\n"
    return json.dumps(line, ensure_ascii=False) + "\n"


def _vocabulary(place: Path, texts: Sequence[str]) -> tuple[str, Vocabulary]:
    """Writes pieces.model, or returns the characters of the texts if they are too few for it."""
    characters = "".join(sorted({c for text in texts for c in text} | {" "}))
    amount = sum(map(len, texts))
    path = place / PIECES
    path.unlink(missing_ok=True)
    if amount >= MIN_CHARACTERS:
        size = min(MAX_PIECES, max(MIN_PIECES, amount // CHARACTERS_PER_PIECE))
        try:
            # SentencePiece needs a piece per character, and one for those it does not know.
            write_bytes(path, make_pieces(texts, max(size, math.ceil(1.2 * len(characters)) + 8)))
            return "", SentencePieceVocabulary(str(path))
        except UserError:
            path.unlink(missing_ok=True)  # too uniform, such as one sentence many times
    return characters, CharacterVocabulary(characters)


def _write_prompts(folder: Path, lines: Sequence[Mapping[str, Any]], seconds: float) -> None:
    """The start of some recordings, to try the model with."""
    shutil.rmtree(folder, ignore_errors=True)
    for line in evenly_spaced(sorted(lines, key=lambda line: _hash(line["audio"])), PROMPTS):
        samples = wav.read(line["audio"], SAMPLE_RATE, seconds)
        wav.write(folder / f"{line['id'].replace('/', '-')}.wav", samples, SAMPLE_RATE)


def _write_problems(path: Path, checked: Checked) -> None:
    """problem, name and detail of everything, for a spreadsheet."""
    rows = [("problem", "recording", "detail")]
    rows += [(p.key, hit.name, hit.detail) for p in PROBLEMS for hit in checked.hits.get(p.key, ())]
    lines = ("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
    write_bytes(path, "".join(lines).encode(errors="backslashreplace"))
