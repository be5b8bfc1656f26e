"""Interfaces of judges, and their entries in the results."""

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

RATE = 16_000  # Hz, of every recording that a judge is given
Facts = Mapping[str, Any]  # {"role", "name", "version", "settings", "checksum"} of a judge


class Judge(Protocol):
    """Anything that judges."""

    @property
    def facts(self) -> Facts:
        """Its entry in the results."""
        ...


class LanguageModel(Judge, Protocol):
    """A causal language model of text."""

    def score(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """(Σ ln p of the text's tokens, their number) of each text, without the end-of-text token."""
        ...

    def complete(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """The greedy continuation of each prompt, without the prompt."""
        ...


class SpeakerEncoder(Judge, Protocol):
    """Embeds recordings so that those of one speaker are close."""

    def embed(self, recordings: Sequence[np.ndarray]) -> Float[np.ndarray, "N D"]:
        """int16 [S] each, at 16 kHz → unit vectors float32 [N, D]; zeros if no voice is found."""
        ...


class SpeechQuality(Judge, Protocol):
    """Rates recordings alone (DNSMOS) or against a reference (PESQ, STOI)."""

    @property
    def measures(self) -> Mapping[str, str]:
        """Name → definition of each value."""
        ...

    def rate(self, recordings: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> list[dict[str, float]]:
        """int16 [S] each, at 16 kHz → every measure's value, NaN if it has none. Alone: references is ()."""
        ...


def facts(role: str, name: str, version: str, settings: Mapping[str, Any], checksum: str) -> dict[str, Any]:
    """A judge's entry in the results."""
    return {"role": role, "name": name, "version": version, "settings": dict(settings), "checksum": checksum}


def facts_of(judge: Any) -> dict[str, Any]:
    """The entry of any judge. One of our recognisers is named "ctc DIR" or "transformers DIR"."""
    if hasattr(judge, "facts"):
        return dict(judge.facts)
    kind, _, folder = judge.name.partition(" ")
    version = version_of(kind) if kind == "transformers" else spectron.__version__
    fusion = getattr(judge, "fusion", None)
    settings = dataclasses.asdict(fusion) if fusion is not None else {}
    if fusion is not None and fusion.lm and not Path(fusion.lm).is_file():
        raise UserError(f"Language model {fusion.lm!r} does not exist; check the path.")
    parts: list[Path] = []
    if folder and Path(folder).is_dir():
        parts += [Path(folder)] if kind == "transformers" else Checkpoint.open(folder).files
    if fusion is not None and fusion.lm:
        parts.append(Path(fusion.lm))
    return facts("speech recogniser", judge.name, version, settings, checksum_of(parts) if parts else "")


def check_rate(recogniser: Recogniser | None, flag: str) -> None:
    """Raise UserError for a recogniser of another sample rate than RATE. flag: the option that names it."""
    experiment = getattr(recogniser, "experiment", None)  # only a recogniser of ours has one
    if recogniser is not None and experiment is not None and experiment.features.sample_rate != RATE:
        raise UserError(
            f"The recogniser {recogniser.name!r} hears {experiment.features.sample_rate} Hz, recordings are judged at "
            f"{RATE} Hz; give {flag} one of that rate."
        )


def version_of(package: str) -> str:
    """The version of an installed package."""
    return importlib.metadata.version(package)


def missing(error: ImportError, what: str) -> UserError:
    """The error for a judge whose package is not installed."""
    return UserError(f"{what} needs the package {error.name!r}; pip install 'spectron-jax[judges]'.")
