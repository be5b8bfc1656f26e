"""What `spectron data inspect FOLDER` tells: a table on the console, and inspect.html with players and spectrograms."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectron.audio import spectrogram_png, wav
from spectron.audio.spectrograms import log_mels
from spectron.config import FeatureConfig
from spectron.corpora.recording_checks import PROBLEMS, Checked, Hit, Problem, spoken_seconds
from spectron.corpora.recordings import UNUSED, Inspection
from spectron.data.prepared import HELD_OUT, TRAIN
from spectron.data.recordings import Record
from spectron.data.shards import encode_flac
from spectron.types import UserError
from spectron.utils.files import write_bytes
from spectron.utils.html import Cell, Histogram, Listing, Media, Row, Section, data_uri, render

NAMED = 3  # ours: names in a row of the console's table
WORST = 3  # ours: examples of each problem on the page
GOOD = 5  # ours: examples of recordings without a problem on the page
MAX_SECONDS = 15.0  # ours: of an example that is played
BINS = 48  # ours: bars of a histogram
FEATURES = FeatureConfig()


def summary(inspection: Inspection) -> list[str]:
    """What there is and how much of it is used, in a few lines."""
    listing, checked = inspection.listing, inspection.checked
    speakers = len({r.speaker for r in listing.records} - {""})
    count = len(listing.records) + len(listing.unsupported)
    lines = [f"Detected: {listing.layout}."]
    lines.append(
        f"{_number(count, 'recording')}, {_time(inspection.hours())}"
        + (f", {_number(speakers, 'speaker')}" if speakers else "")
        + f"; usable: {len(inspection.splits):,}, {_time(inspection.hours(TRAIN, HELD_OUT, UNUSED))}."
    )
    if inspection.splits:
        held_out = {checked.records[i].speaker for i, split in inspection.splits.items() if split == HELD_OUT}
        train = {checked.records[i].speaker for i, split in inspection.splits.items() if split == TRAIN}
        others = f" of {_number(len(held_out), 'other speaker')}" if held_out and not held_out & train else ""
        lines.append(
            f"To train on: {inspection.count(TRAIN):,}, {_time(inspection.hours(TRAIN))}; held out: "
            f"{inspection.count(HELD_OUT):,}{others}, {_time(inspection.hours(HELD_OUT))}."
        )
    return lines + checked.notes


def table(inspection: Inspection) -> str:
    """The problems as a table for the console: recordings, share of the time, what to do, and the first names."""
    checked = inspection.checked
    found = [problem for problem in PROBLEMS if problem.key in checked.hits]
    if not found:
        return "No problems."
    width = max(len(problem.title) for problem in found)
    lines = [f"{'problem':{width}}  {'number':>7}  {'time':>6}  what to do"]
    for problem in found:
        hits = checked.hits[problem.key]
        share = _share(inspection, problem)
        used = "left out" if problem.left_out else "used"
        lines.append(f"{problem.title:{width}}  {len(hits):>7,}  {share:>6}  {used}. {problem.advice}")
        shown = [(_short(inspection, hit.name), _cut(hit.detail)) for hit in hits[:NAMED]]
        names = [f"{name} ({detail})" if detail else name for name, detail in shown]
        lines += [f"{'':{width}}  {line}" for line in [*names, *_more(hits)]]
    return "\n".join(lines)


def write(path: Path, inspection: Inspection) -> None:
    """Write inspect.html. Raises UserError if it cannot be written."""
    checked = inspection.checked
    rows = [
        [
            Cell(problem.title, small=_named(inspection, problem)),
            problem.advice,
            Cell(f"{len(checked.hits[problem.key]):,}", value=len(checked.hits[problem.key])),
            _share(inspection, problem),
            "left out" if problem.left_out else "used",
        ]
        for problem in PROBLEMS
        if problem.key in checked.hits
    ]
    columns = ("Problem", "What to do", "Number", "Share of the time", "In training")
    nothing = [] if rows else ["No problems were found."]
    wrong = Section("What is wrong", rows, columns if rows else (), "sortable", nothing)
    facts = Section("The recordings", _facts(inspection), histograms=_histograms(checked))
    listing = Listing(
        "Look and listen",
        ("Recording", "Text", "Problems"),
        _examples(inspection),
        f"The {WORST} worst of each problem, and some without any; problems.tsv names all. The line in a spectrogram "
        "is the end of a prompt of 2 s.",
    )
    page = render("Recordings", summary(inspection), [facts], listing, first=[wrong])
    write_bytes(path, page.encode(errors="backslashreplace"))  # a file's name may hold bytes that are not UTF-8


def _named(inspection: Inspection, problem: Problem) -> str:
    """The first names of what has a problem."""
    hits = inspection.checked.hits[problem.key]
    return ", ".join([*(_short(inspection, hit.name) for hit in hits[:NAMED]), *_more(hits)])


def _more(hits: Sequence[Hit]) -> list[str]:
    return [f"and {len(hits) - NAMED:,} more"] if len(hits) > NAMED else []


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    sounds = [sound for sound in inspection.checked.sounds if sound.seconds]
    rates = collections.Counter(sound.sample_rate for sound in sounds)
    channels = collections.Counter(sound.channels for sound in sounds)
    facts = [
        ("sample rates", ", ".join(f"{rate:,} Hz: {n:,}" for rate, n in rates.most_common())),
        ("channels", ", ".join(f"{count}: {n:,}" for count, n in channels.most_common())),
    ]
    if sounds:
        levels = np.percentile([sound.level for sound in sounds], (5, 50, 95))
        lengths = np.percentile([sound.seconds for sound in sounds], (0, 5, 50, 95, 100))
        facts += [
            ("length in seconds", ", ".join(f"{s:.1f}" for s in lengths) + " (0, 5, 50, 95 and 100 %)"),
            ("level of the speech, dBFS", ", ".join(f"{level:.0f}" for level in levels) + " (5, 50 and 95 %)"),
        ]
    characters = collections.Counter(c for text in inspection.checked.texts for c in text)
    if characters:
        shown = " ".join(c for c, _ in characters.most_common() if c != " ")
        facts.append(("characters, frequent ones first", shown))
    return facts


def _histograms(checked: Checked) -> list[Histogram]:
    lengths = [sound.seconds for sound in checked.sounds if sound.seconds]
    rates = [
        len(text) / spoken_seconds(sound)
        for text, sound in zip(checked.texts, checked.sounds, strict=True)
        if text and sound.seconds
    ]
    histograms = []
    for caption, values in (("Length in seconds", lengths), ("Characters per second of speech", rates)):
        if values:
            counts, edges = np.histogram(values, BINS)
            histograms.append(Histogram(caption, counts.tolist(), edges.tolist()))
    return histograms


def _examples(inspection: Inspection) -> list[Row]:
    """The worst recordings of each problem, each recording once, and some without a problem."""
    checked = inspection.checked
    problems: dict[int, list[tuple[Problem, Hit]]] = {}
    for problem in PROBLEMS:
        for hit in checked.hits.get(problem.key, ()):
            if hit.index >= 0:
                problems.setdefault(hit.index, []).append((problem, hit))
    chosen: dict[int, None] = {}
    for problem in PROBLEMS:
        own = [hit.index for hit in checked.hits.get(problem.key, ()) if hit.index >= 0]
        chosen |= dict.fromkeys(own[:WORST])
    good = [i for i in inspection.splits if i not in problems]
    chosen |= dict.fromkeys(good[:: max(1, len(good) // GOOD)][:GOOD])
    sounds = {i: _read(checked.records[i]) for i in chosen}
    audible = [i for i, samples in sounds.items() if len(samples) >= FEATURES.hop]
    media = dict(zip(audible, _media([(checked.records[i], sounds[i]) for i in audible]), strict=True))
    return [_example(inspection, i, problems.get(i, ()), media.get(i)) for i in chosen]


def _example(inspection: Inspection, i: int, problems: Sequence[tuple[Problem, Hit]], media: Media | None) -> Row:
    checked = inspection.checked
    sound = checked.sounds[i]
    use = inspection.splits.get(i, "left out").replace("_", " ")
    heard = f"heard: {checked.heard[i]}" if i in checked.heard and checked.records[i].text else ""
    measured = f"{sound.seconds:.2f} s, {sound.sample_rate:,} Hz, " if sound.sample_rate else ""
    small = f"{checked.records[i].speaker}\n{measured}{use}".strip()
    details = "\n".join(f"{problem.title}: {hit.detail}" if hit.detail else problem.title for problem, hit in problems)
    cells = [
        Cell(_short(inspection, checked.records[i].audio), small=small),
        Cell(checked.texts[i] or "–", small=heard),
        Cell(details or "none"),
    ]
    return Row(cells, media, groups=[problem.title for problem, _ in problems] or ["no problem"])


def _read(record: Record) -> np.ndarray:
    try:
        return wav.read(record.audio, FEATURES.sample_rate, MAX_SECONDS)
    except UserError:  # shown without sound
        return np.zeros(0, np.int16)


def _media(recordings: Sequence[tuple[Record, np.ndarray]]) -> list[Media]:
    pictures = log_mels([samples for _, samples in recordings], FEATURES)
    prompt = round(2.0 / FEATURES.hop_seconds)
    media = []
    for (record, samples), mel in zip(recordings, pictures, strict=True):
        png = spectrogram_png.spectrograms([("log-mel", mel[:prompt], mel[prompt:])], FEATURES)
        sound = data_uri(encode_flac(samples, FEATURES.sample_rate), "audio/flac")
        media.append(Media(record.id, data_uri(png, "image/png"), [("recording", sound)]))
    return media


def _share(inspection: Inspection, problem: Problem) -> str:
    total = inspection.hours() * 3600
    seconds = inspection.checked.seconds(problem.key)
    return f"{100 * seconds / total:.1f} %" if seconds else "–"


def _short(inspection: Inspection, name: str) -> str:
    """A path below the folder that all recordings have in common."""
    top = inspection.top
    return name[len(top) + 1 :] if top and name.startswith(top + os.sep) else name


def _cut(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 2 else f"{60 * hours:.1f} min"
