"""What is wrong with a folder of recordings: every problem with the recordings that have it, and what to do."""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from spectron.audio.wav import SILENCE_DBFS
from spectron.data.layouts import BROKEN, NO_RECORDING, Listing
from spectron.data.measuring import EMPTY, TRUNCATED, UNREADABLE, Sound
from spectron.data.recordings import Record
from spectron.types import UserError
from spectron.utils.edit_distance import edit_distance
from spectron.utils.plain_words import plain_words

# All thresholds are ours.
SHORTEST, LONGEST = 0.75, 20.0  # seconds: half a second of prompt and a quarter to continue; MAX_SECONDS of own.py
CLIPPED = 5e-4  # share of samples at full scale
QUIET_DBFS = -40.0  # level of the loud frames
SILENT_SHARE = 0.6  # of frames
SILENT_ENDS = 1.0  # seconds at the start or at the end
LOW_RATE = 16_000  # Hz: the features reach up to 8 kHz
RATE_RATIO = 2.0  # characters per second, times or divided by their median
RATE_SPREADS = 4.0  # or so many standard deviations of the logarithm, whichever is more
FEW_TEXTS = 5  # texts that say what is usual
WORD_ERRORS = 0.5  # share
GOOD_RECOGNISER = 0.35  # median of the word errors above which the recogniser judges no text
SAME_TEXT = 5  # recordings
RARE = 3  # recordings that have a character


class Problem(NamedTuple):
    """A kind of problem. key: its name for --keep. left_out: whether such recordings are not trained on."""

    key: str
    title: str
    left_out: bool
    advice: str


PROBLEMS = (
    Problem("empty", "empty files", True, "Copy or record them again."),
    Problem("unreadable", "unreadable files", True, "Damaged or not audio: export them again as WAV or FLAC."),
    Problem("format", "formats that cannot be read", True, "Convert them: ffmpeg -i x.m4a x.flac"),
    Problem("truncated", "truncated files", True, "They end before their header says: copy them again."),
    Problem("silent", "silent recordings", True, f"Peak below {SILENCE_DBFS:g} dBFS: record them again."),
    Problem("no-text", "recordings without text", True, "Write the text, or label them: --recogniser DIR"),
    Problem("no-recording", "texts without a recording", True, "Correct the name, or delete the text."),
    Problem("broken-line", "broken lines of a manifest", True, "Correct the line."),
    Problem("duplicate", "duplicate recordings", True, "The same samples twice: the first one is kept."),
    Problem("rate-of-speech", "texts of another length", True, "The text does not suit the length of the recording:"
            " correct it."),
    Problem("misheard", "texts that are not heard", True, "The recogniser hears other words: correct the text."),
    Problem("too-short", "too short", True, "Join them with their neighbours."),
    Problem("too-long", "too long", True, "Cut them in pauses, or --keep too-long and --set data.max_seconds=N."),
    Problem("clipped", "clipped", False, "The recording level was too high: record them again, or leave them out."),
    Problem("quiet", "very quiet", False, f"Speech below {QUIET_DBFS:g} dBFS: raise their level."),
    Problem("mostly-silence", "mostly silence", False, "Cut the silence off, or check that the speech is there."),
    Problem("silent-ends", "silence at the start or end", False, f"Over {SILENT_ENDS:g} s: cut it off; the model learns"
            " to be silent."),
    Problem("low-rate", "low sample rates", False, "Below 16 kHz the high frequencies are missing: use the originals."),
    Problem("mixed-rates", "another sample rate than most", False, "They are resampled; check that they sound alike."),
    Problem("same-text", "the same text many times", False, "Fine if it was said so often; else correct the texts."),
    Problem("digits", "digits in texts", False, "Spell them as they are said: 1984 → nineteen eighty-four."),
    Problem("markup", "markup in texts", False, "Delete tags, brackets and entities that nobody says."),
    Problem("encoding", "texts that are not UTF-8", True, "Save them as UTF-8."),
    Problem("rare-characters", "rare characters", False, "Too few to be learnt: replace them if you can."),
)  # fmt: skip
KEEPABLE = ("truncated", "duplicate", "too-long", "rate-of-speech", "misheard")
_MARKUP = re.compile(r"<[^>]*>|\[[^\]]*\]|\{[^}]*\}|&\w+;|https?://")


@dataclasses.dataclass
class Hit:
    """One recording, text or line with a problem. index: of the recording, −1 for another thing. severity: sorts them,
    the worst first. detail: what was measured."""

    name: str
    index: int = -1
    detail: str = ""
    severity: float = 0.0


@dataclasses.dataclass
class Checked:
    """Recordings with what was measured. texts: as they are used, written or heard. heard: what the recogniser hears,
    by index. hits: problem key → what has it, the worst first."""

    records: Sequence[Record]
    sounds: Sequence[Sound]
    texts: list[str]
    heard: Mapping[int, str] = dataclasses.field(default_factory=dict)
    hits: dict[str, list[Hit]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def seconds(self, key: str) -> float:
        """Time of the recordings that have a problem."""
        return sum(self.sounds[i].seconds for i in {hit.index for hit in self.hits[key]} if i >= 0)

    def left_out(self, keep: Iterable[str] = ()) -> set[int]:
        """Indices of the recordings that are not used."""
        keys = [p.key for p in PROBLEMS if p.left_out and p.key not in keep]
        return {hit.index for key in keys for hit in self.hits.get(key, ()) if hit.index >= 0}

    def add(self, key: str, hits: Iterable[Hit]) -> None:
        """Add what has a problem."""
        if new := sorted(hits, key=lambda hit: -hit.severity):
            self.hits.setdefault(key, []).extend(new)


def check_keep(keep: Sequence[str]) -> None:
    """Raise UserError for a problem in spite of which no recording can be used."""
    for key in keep:
        if key not in KEEPABLE:
            raise UserError(f"--keep {key!r} is unknown; give some of: {', '.join(KEEPABLE)}.")


def check_sounds(listing: Listing, sounds: Sequence[Sound]) -> Checked:
    """Everything that needs no text: files, lengths, levels, rates, duplicates."""
    checked = Checked(listing.records, sounds, [record.text for record in listing.records])
    checked.add("format", (Hit(path) for path in listing.unsupported))
    checked.add("no-recording", (Hit(name) for name in listing.rejected.get(NO_RECORDING, ())))
    numbers = {record.audio: i for i, record in enumerate(listing.records)}
    checked.add("encoding", (Hit(path, numbers[path], why) for path, why in listing.undecodable.items()))
    checked.add("broken-line", (Hit(name) for name in listing.rejected.get(BROKEN, ())))
    _by_error(checked)
    readable = [i for i, sound in enumerate(sounds) if sound.error in ("", TRUNCATED)]
    silence = 10 ** (SILENCE_DBFS / 20)
    _add(checked, "silent", readable, lambda s: s.peak < silence, lambda s: -s.peak, lambda s: _db(s.peak))
    loud = [i for i in readable if sounds[i].peak >= silence]
    _add(checked, "too-short", loud, lambda s: s.seconds < SHORTEST, lambda s: -s.seconds, _length)
    _add(checked, "too-long", loud, lambda s: s.seconds > LONGEST, lambda s: s.seconds, _length)
    _add(
        checked, "clipped", loud, lambda s: s.clipped >= CLIPPED, lambda s: s.clipped,
        lambda s: f"{100 * s.clipped:.2f} % of samples",
    )  # fmt: skip
    _add(checked, "quiet", loud, lambda s: s.level < QUIET_DBFS, lambda s: -s.level, lambda s: f"{s.level:.0f} dBFS")
    _add(
        checked, "mostly-silence", loud, lambda s: s.silent > SILENT_SHARE, lambda s: s.silent,
        lambda s: f"{100 * s.silent:.0f} % silent",
    )  # fmt: skip
    _add(
        checked, "silent-ends", loud, lambda s: max(s.start, s.end) > SILENT_ENDS, lambda s: s.start + s.end,
        lambda s: f"{s.start:.1f} s at the start, {s.end:.1f} s at the end",
    )  # fmt: skip
    _check_rates(checked, loud)
    _check_duplicates(checked, loud)
    return checked


def _add(
    checked: Checked,
    key: str,
    indices: Sequence[int],
    applies: Callable[[Sound], bool],
    severity: Callable[[Sound], float],
    detail: Callable[[Sound], str],
) -> None:
    sounds = checked.sounds
    checked.add(
        key,
        (
            Hit(checked.records[i].audio, i, detail(sounds[i]), severity(sounds[i]))
            for i in indices
            if applies(sounds[i])
        ),
    )


def _by_error(checked: Checked) -> None:
    for key, error in (("empty", EMPTY), ("unreadable", UNREADABLE), ("truncated", TRUNCATED)):
        everything = range(len(checked.sounds))
        _add(checked, key, everything, lambda s, error=error: s.error == error, lambda s: 0.0, lambda s: "")  # type: ignore[misc]


def _check_rates(checked: Checked, indices: Sequence[int]) -> None:
    rates = collections.Counter(checked.sounds[i].sample_rate for i in indices)
    _add(
        checked, "low-rate", indices, lambda s: s.sample_rate < LOW_RATE, lambda s: -float(s.sample_rate),
        lambda s: f"{s.sample_rate:,} Hz",
    )  # fmt: skip
    if len(rates) > 1:
        usual = rates.most_common(1)[0][0]
        _add(
            checked, "mixed-rates", indices, lambda s: s.sample_rate != usual,
            lambda s: abs(math.log(s.sample_rate / usual)), lambda s: f"{s.sample_rate:,} Hz, most have {usual:,}",
        )  # fmt: skip


def _check_duplicates(checked: Checked, indices: Sequence[int]) -> None:
    """Of equal recordings the first with a text is kept."""
    first: dict[str, int] = {}
    for i in sorted(indices, key=lambda i: not checked.records[i].text):
        kept = first.setdefault(checked.sounds[i].digest, i)
        if kept != i:
            name = os.path.basename(checked.records[kept].audio)
            checked.add("duplicate", [Hit(checked.records[i].audio, i, f"same as {name}")])


def check_texts(checked: Checked, keep: Iterable[str] = ()) -> None:
    """Everything about texts, of the recordings that are not left out yet; call it when the texts are complete."""
    records, texts = checked.records, checked.texts
    left_out = checked.left_out(keep)
    indices = [i for i in range(len(records)) if i not in left_out]
    written = [i for i in indices if texts[i]]
    checked.add("no-text", (Hit(records[i].audio, i) for i in indices if not texts[i]))
    _check_speaking_rate(checked, written)
    _check_heard(checked, [i for i in written if i in checked.heard and records[i].text])
    counts = collections.Counter(" ".join(plain_words(texts[i])) for i in written)
    repeated = {i: counts[" ".join(plain_words(texts[i]))] for i in written}
    checked.add(
        "same-text",
        (Hit(records[i].audio, i, f"{n} times: {texts[i]}", n) for i, n in repeated.items() if n > SAME_TEXT),
    )
    for key, finds in (
        ("digits", lambda text: re.findall(r"\d+", text)),
        ("markup", _MARKUP.findall),
        ("encoding", lambda text: ["\ufffd"] * ("\ufffd" in text)),
    ):
        found = {i: finds(texts[i]) for i in written}
        checked.add(key, (Hit(records[i].audio, i, ", ".join(f), len(f)) for i, f in found.items() if f))
    _check_characters(checked, written)


def spoken_seconds(sound: Sound) -> float:
    """Length without the silence at both ends."""
    return max(sound.seconds - sound.start - sound.end, 0.1)


def _check_speaking_rate(checked: Checked, indices: Sequence[int]) -> None:
    """Characters per second far from the median: another recording's text, half of it, or a wrong cut."""
    lengths = {i: len(re.sub(r"\W", "", checked.texts[i])) or 1 for i in indices}
    rates = {i: lengths[i] / spoken_seconds(checked.sounds[i]) for i in indices}
    if len(rates) < FEW_TEXTS:
        return
    logs = np.log(list(rates.values()))
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))  # the standard deviation, if they are normal
    limit = max(math.log(RATE_RATIO), RATE_SPREADS * spread)
    usual = math.exp(median)
    hits = []
    for i, rate in rates.items():
        far = math.log(rate) - median
        most = limit * (1 + 0.5 / spoken_seconds(checked.sounds[i]))  # the rate of a short recording varies more
        # Digits say more than they have characters.
        if abs(far) > most and not (far < 0 and re.search(r"\d", checked.texts[i])):
            detail = f"{rate:.1f} characters per second, usual {usual:.1f}"
            hits.append(Hit(checked.records[i].audio, i, detail, abs(far)))
    checked.add("rate-of-speech", hits)


def word_errors(text: str, heard: str) -> float:
    """Word errors of a text against what a recogniser hears, as a share of the longer one's words; of characters where
    words are not separated by spaces."""
    first, second = plain_words(text), plain_words(heard)
    if len(first) <= 1 and len(text) > 20:
        first, second = list("".join(first)), list("".join(second))
    return edit_distance(first, second) / max(len(first), len(second), 1)


def _check_heard(checked: Checked, indices: Sequence[int]) -> None:
    """Texts that a recogniser does not hear; if it hears few of all texts, it is the one that is wrong."""
    errors = {i: word_errors(checked.texts[i], checked.heard[i]) for i in indices}
    if not errors:
        return
    usual = float(np.median(list(errors.values())))
    checked.notes.append(f"The recogniser hears {len(errors)} texts with {100 * usual:.0f} % word errors (median).")
    if usual > GOOD_RECOGNISER:
        checked.notes.append("That is too many to say which texts are wrong: take a better recogniser for that.")
        return
    checked.add(
        "misheard",
        (
            Hit(checked.records[i].audio, i, f"{100 * e:.0f} % word errors, heard: {checked.heard[i]}", e)
            for i, e in errors.items()
            if e > WORD_ERRORS
        ),
    )


def _check_characters(checked: Checked, indices: Sequence[int]) -> None:
    counts = collections.Counter(c for i in indices for c in set(checked.texts[i].casefold()))
    if len(indices) < 10 * RARE:  # ours: in few texts every letter may be rare
        return
    usual = {"\ufffd", *string.ascii_lowercase, *string.digits}  # or a problem of their own
    rare = {c for c, n in counts.items() if n < RARE} - usual
    found = {i: sorted(set(checked.texts[i].casefold()) & rare) for i in indices}
    checked.add(
        "rare-characters",
        (Hit(checked.records[i].audio, i, " ".join(each), len(each)) for i, each in found.items() if each),
    )


def _db(magnitude: float) -> str:
    return f"peak {20 * math.log10(magnitude):.0f} dBFS" if magnitude else "no sound at all"


def _length(sound: Sound) -> str:
    return f"{sound.seconds:.1f} s"
