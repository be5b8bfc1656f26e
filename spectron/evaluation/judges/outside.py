"""Judges that others made, behind small interfaces: what a suite asks of them, and what a result says about them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

import spectron
from spectron.checkpoints.export_format import FACTS, WEIGHTS, is_bundle
from spectron.checkpoints.manager import find, has_average
from spectron.types import Recogniser, UserError

RATE = 16_000  # of every recording a judge hears
Facts = Mapping[str, Any]  # {"role", "name", "version", "settings", "checksum"}


class LanguageModel(Protocol):
    """A causal language model of text."""

    @property
    def facts(self) -> Facts:
        """What a result says about it."""
        ...

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p of the text's tokens, how many they are) of each text, the end of the text not among them."""
        ...

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """The likeliest continuation of each prompt, token by token, without the prompt."""
        ...


class SpeakerEncoder(Protocol):
    """Whose voice a recording is."""

    @property
    def facts(self) -> Facts:
        """What a result says about it."""
        ...

    def embed(self, recordings: Sequence[np.ndarray]) -> Float[np.ndarray, "N D"]:
        """int16 [S] each, at 16 kHz → unit vectors float32 [N, D]; zeros where there is nothing to hear."""
        ...


class SpeechQuality(Protocol):
    """How good a recording sounds, alone (DNSMOS) or beside a reference (PESQ, STOI)."""

    @property
    def facts(self) -> Facts:
        """What a result says about it."""
        ...

    @property
    def measures(self) -> Mapping[str, str]:
        """Name → definition of each value."""
        ...

    def rate(self, recordings: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """int16 [S] each, at 16 kHz → a value for every measure, NaN where it has none. Alone: references is ()."""
        ...


def facts(role: str, name: str, version: str, settings: Mapping[str, Any], checksum: str) -> dict[str, Any]:
    """What a result says about a judge."""
    return {"role": role, "name": name, "version": version, "settings": dict(settings), "checksum": checksum}


def facts_of(recogniser: Recogniser) -> dict[str, Any]:
    """What a result says about one of our recognisers; its name is "ctc DIR" or "transformers DIR"."""
    kind, _, folder = recogniser.name.partition(" ")
    version = version_of(kind) if kind == "transformers" else spectron.__version__
    fusion = getattr(recogniser, "fusion", None)
    settings = dataclasses.asdict(fusion) if fusion is not None else {}
    if fusion is not None and fusion.lm and not Path(fusion.lm).is_file():
        raise UserError(f"Language model {fusion.lm!r} does not exist; check the path.")
    parts: list[Path] = []
    if folder and Path(folder).is_dir():
        parts += [Path(folder)] if kind == "transformers" else weights_of(find(folder))
    if fusion is not None and fusion.lm:
        parts.append(Path(fusion.lm))
    return facts("speech recogniser", recogniser.name, version, settings, checksum_of(parts) if parts else "")


def check_rate(recogniser: Recogniser | None, flag: str) -> None:
    """Raise UserError for one that hears another rate than RATE; flag: who named it."""
    experiment = getattr(recogniser, "experiment", None)  # only a recogniser of ours has one
    if recogniser is not None and experiment is not None and experiment.features.sample_rate != RATE:
        raise UserError(
            f"The recogniser {recogniser.name!r} hears {experiment.features.sample_rate} Hz, recordings are judged at "
            f"{RATE} Hz; give {flag} one of that rate."
        )


def checkpoint_facts(directory: str | Path) -> dict[str, str]:
    """Which checkpoint of ours is evaluated: where it is, and what is in it (weights and configuration alone).

    Belongs into every plan: another model may come to stand in the same place.
    """
    step = find(directory)
    return {"checkpoint": str(step), "weights": checksum_of(weights_of(step))}


def weights_of(step: Path) -> list[Path]:
    """The parts of a checkpoint or an export that decide what the model does; not the optimizer's."""
    if is_bundle(step):
        return [step / WEIGHTS, step / FACTS]
    return [step / ("ema" if has_average(step) else "params"), step / "meta" / "metadata"]


def version_of(package: str) -> str:
    """The version of an installed package."""
    return importlib.metadata.version(package)


def missing(error: ImportError, what: str) -> UserError:
    """The sentence for a judge whose package is not installed."""
    return UserError(f"{what} needs the package {error.name!r}; pip install 'spectron-jax[judges]'.")


def checksum_of(paths: Iterable[Path]) -> str:
    """SHA-256 over the files, and those below the folders, by name and content; hidden ones left out."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if file != path else file.name
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            with file.open("rb") as content:
                digest.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
