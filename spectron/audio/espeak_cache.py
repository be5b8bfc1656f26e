"""Texts spoken by espeak NG, kept as files in the cache folder so that each is synthesised once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectron.audio import containers, wav
from spectron.types import UserError
from spectron.utils.environment import cache_folder

CHUNK = 50  # ours: texts synthesised between two movements of the progress bar


def synthesis_facts(voice: str, words_a_minute: int) -> dict[str, Any]:
    """What decides how a text sounds."""
    try:
        version = importlib.metadata.version("espeakng-loader")
    except importlib.metadata.PackageNotFoundError:
        version = ""  # synthesis raises the error
    return {"synthesiser": "espeak NG", "version": version, "voice": voice, "words_a_minute": words_a_minute}


def _is_whole(path: Path) -> bool:
    """Whether a FLAC file is there, to its end."""
    try:
        return not containers.flac_cut_off(path.read_bytes())
    except OSError:
        return False


def spoken_texts(
    texts: Sequence[str], voice: str, words_a_minute: int, sample_rate: int, folder: Path | None = None
) -> list[Path]:
    """A FLAC file for every text, synthesised if it is missing. folder: instead of the cache folder's `questions`.

    Raises UserError if espeak is missing or produces no audio for a text.
    """
    from tqdm import tqdm

    from spectron.audio.espeak import Reading, synthesise_all

    folder = folder or cache_folder() / "questions"
    facts = synthesis_facts(voice, words_a_minute)
    digests = [hashlib.sha256(json.dumps([text, sample_rate, facts]).encode()).hexdigest() for text in texts]
    paths = [folder / f"{digest[:32]}.flac" for digest in digests]
    missing = [(path, text) for path, text in dict(zip(paths, texts, strict=True)).items() if not _is_whole(path)]
    if not missing:
        return paths
    with tqdm(total=len(missing), desc="speaking the questions", unit="question", disable=None) as bar:
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            readings = [Reading((text,), voice, words_a_minute) for _, text in chunk]
            for (path, text), (samples,) in zip(chunk, synthesise_all(readings, sample_rate), strict=True):
                if not len(samples):
                    raise UserError(f"espeak NG produces no audio for the text {text!r}; leave it out.")
                wav.write(path, samples, sample_rate)
            bar.update(len(chunk))
    return paths
