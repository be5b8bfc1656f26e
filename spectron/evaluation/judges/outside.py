"""Judges that others made, behind small interfaces: what a suite asks of them, and what a result says about them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

import spectron
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.types import Recogniser, UserError
from spectron.utils.files import checksum_of

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
        parts += [Path(folder)] if kind == "transformers" else Checkpoint.open(folder).files
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
    """The facts of a checkpoint: its folder, and a checksum of what decides what the model does."""
    return Checkpoint.open(directory).facts


def version_of(package: str) -> str:
    """The version of an installed package."""
    return importlib.metadata.version(package)


def missing(error: ImportError, what: str) -> UserError:
    """The sentence for a judge whose package is not installed."""
    return UserError(f"{what} needs the package {error.name!r}; pip install 'spectron-jax[judges]'.")
