"""Which files below a folder are audio, for every command that is given a folder.

Linked folders are searched, each real folder once. Hidden files and folders are left out. Suffixes are compared without
case.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from spectron.errors import UserError

log = logging.getLogger(__name__)

# Formats that libsndfile reads. Of several files with one stem, the format named first is taken.
AUDIO_SUFFIXES = (
    *(".flac", ".opus", ".ogg", ".wav", ".mp3", ".wave", ".aiff", ".aif", ".aifc", ".w64", ".rf64", ".bwf", ".caf"),
    *(".au", ".oga", ".mp2"),
)
# Suffixes that other kinds of files have too, or formats of which libsndfile reads some: their content decides.
_BY_CONTENT = (".sph", ".nist", ".snd", ".voc", ".svx", ".8svx", ".avr", ".pvf", ".paf", ".ircam", ".sd2", ".wve")
# Audio and video that libsndfile cannot decode.
UNREADABLE_SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".aac", ".wma", ".amr", ".awb", ".webm", ".weba", ".3gp", ".3g2", ".mka", ".mkv", ".mov"),
    *(".avi", ".ac3", ".eac3", ".ape", ".wv", ".tta", ".mpc", ".dsf", ".dff", ".shn", ".spx", ".ra", ".rm", ".wmv"),
    *(".flv", ".ogv", ".gsm", ".aax", ".alac", ".dts", ".pcm", ".mpg", ".mpeg", ".mts"),
)
COMMON = "WAV, FLAC, Ogg, Opus, MP3, AIFF, W64, …"  # for messages
_RANK = {suffix: i for i, suffix in enumerate(AUDIO_SUFFIXES)}


@dataclasses.dataclass
class Found:
    """The files below a folder, in a fixed order. unreadable: audio in formats that cannot be read."""

    audio: list[Path] = dataclasses.field(default_factory=list)
    unreadable: list[Path] = dataclasses.field(default_factory=list)
    others: list[Path] = dataclasses.field(default_factory=list)


def find_files(root: str | Path, leave_out: Path | None = None) -> Found:
    """All files below a folder by kind. leave_out: a folder, resolved, that is not searched.

    A folder that links lead to as well is found under its own path. Raises UserError for one that cannot be read.
    """
    return sort_files(_walk(Path(root), leave_out))


def sort_files(paths: Iterable[Path]) -> Found:
    """Files by kind. A link whose target is missing counts by its name: reading it fails later, with its name."""
    found = Found()
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in AUDIO_SUFFIXES or (suffix in _BY_CONTENT and _opens(path)):
            found.audio.append(path)
        elif suffix in UNREADABLE_SUFFIXES or suffix in (".sph", ".nist"):
            found.unreadable.append(path)
        else:
            found.others.append(path)
    return found


def by_stem(paths: Sequence[Path]) -> dict[str, Path]:
    """File name without suffix → file; of several, the highest in the tree, then by AUDIO_SUFFIXES."""
    stems: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (len(path.parts), _RANK.get(path.suffix.lower(), len(_RANK)), path)):
        stems.setdefault(path.stem, path)
    return stems


def recordings_in(folder: str | Path) -> dict[str, Path]:
    """File name without suffix → recording, of the audio files directly in a folder. {} if it cannot be read."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    return by_stem(sort_files(Path(folder, name) for name in names if name[0] != ".").audio)


def passed_over(paths: Sequence[Path]) -> str:
    """A sentence that counts files in formats that cannot be read, by suffix, and names the first; "" for none."""
    if not paths:
        return ""
    counts = collections.Counter(path.suffix.lower() for path in paths)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
    noun, them = ("file", "it") if len(paths) == 1 else ("files", "them")
    return f"{len(paths)} {noun} passed over: {kinds} (the first: {paths[0]}); convert {them} to WAV or FLAC."


def warn_passed_over(paths: Sequence[Path]) -> None:
    """Log one line about files in formats that cannot be read, if there are any."""
    if paths:
        log.warning("%s", passed_over(paths))


def _walk(root: Path, leave_out: Path | None) -> Iterator[Path]:
    """The files below a folder that are not hidden, a folder's own before those of its folders. Links come last."""
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            for place, folders, names in os.walk(start, onerror=_stop):
                folder, visible = Path(place), sorted(name for name in folders if name[0] != ".")
                folders.clear()
                if not _is_new(place, seen) or _is_below(folder, leave_out):
                    continue
                links += [folder / name for name in visible if os.path.islink(folder / name)]
                folders += [name for name in visible if not os.path.islink(folder / name)]
                yield from (folder / name for name in sorted(names) if name[0] != ".")
        waiting = sorted(links)


def _is_new(folder: str, seen: set[tuple[int, int]]) -> bool:
    """Whether a folder has not been seen, under this path or another; it has from now on."""
    try:
        status = os.stat(folder)
    except OSError as error:
        _stop(error)
    key = (status.st_dev, status.st_ino)
    is_new = key not in seen
    seen.add(key)
    return is_new


def _is_below(folder: Path, other: Path | None) -> bool:
    return other is not None and Path(os.path.realpath(folder)).is_relative_to(other)


def _stop(error: OSError) -> NoReturn:
    raise UserError(f"Folder {error.filename!r} cannot be read ({error.strerror}); check its permissions.") from error


def _opens(path: Path) -> bool:
    """Whether libsndfile can open a file."""
    import soundfile  # here: most folders have no such file

    try:
        soundfile.info(os.fsencode(path))  # its own encoding fails for names that are not UTF-8
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError, TypeError):
        return False
    return True
