"""Recognisers: CTC models of this project, with or without a language model, and loading of any recogniser."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import CTCConfig, Experiment
from spectron.config.overrides import build
from spectron.objectives.ctc import CTC
from spectron.recognition.ctc_search import Fusion, WordSearch, greedy
from spectron.types import Hypothesis, Params, Recogniser, Statistics, UserError
from spectron.utils.files import write_bytes
from spectron.utils.padding import batches_by_length

__all__ = ["RECIPE", "CTCRecogniser", "Fusion", "load_recogniser", "resolve_recogniser", "write_recipe"]

RECIPE = "recogniser.json"  # a recogniser with its tuned weights: {"checkpoint": DIR, "fusion": Fusion's fields}
SHORTEST, GROWTH = 4.0, 1.5  # ours: length of the first bucket in seconds, and ratio of successive lengths
ROWS = 8  # ours: recordings in a batch


@functools.partial(jax.jit, static_argnames=("experiment",))
def _hear(params: Params, statistics: Statistics, samples: Array, num_samples: Array, *, experiment: Experiment) -> Any:
    """int16 [B, S] → log-probabilities of the labels, a Sequence of float32 [B, T, V]."""
    objective = CTC(CTCConfig(), experiment, statistics)
    logits = objective.logits(params, samples, num_samples)
    return dataclasses.replace(logits, values=jax.nn.log_softmax(logits.values.astype(np.float32)))


def bucket(num_samples: int, sample_rate: int) -> int:
    """The padded length of a recording in samples; few different lengths need few compilations."""
    seconds = SHORTEST
    while round(seconds * sample_rate) < num_samples:
        seconds *= GROWTH
    return round(seconds * sample_rate)


class CTCRecogniser:
    """A recogniser trained by a ctc stage; `name` is recorded with what it transcribes."""

    def __init__(
        self,
        params: Params,
        experiment: Experiment,
        statistics: Statistics,
        fusion: Fusion | None = None,
        name: str = "ctc",
    ):
        self.name = name
        self.experiment = experiment
        self.statistics = statistics
        self.params = jax.device_put({part: params[part] for part in CTC.parts})
        objective = CTC(CTCConfig(), experiment, statistics)
        self.vocabulary = objective.vocabulary
        self.encoder = objective.encoder
        self.fusion = fusion or Fusion()

    @classmethod
    def from_checkpoint(cls, folder: str | Path | Checkpoint, fusion: Fusion | None = None) -> CTCRecogniser:
        """Load a checkpoint of a ctc stage, named "ctc FOLDER". Raises UserError if it is another stage's."""
        checkpoint = Checkpoint.open(folder)
        missing = [part for part in CTC.parts if part not in checkpoint.parts]
        if missing or checkpoint.statistics is None:
            raise UserError(
                f"Checkpoint {str(checkpoint.folder)!r} of stage {checkpoint.stage!r} has no "
                f"{', '.join(missing) or 'statistics'}: give the checkpoint of a ctc stage."
            )
        name = f"ctc {checkpoint.folder}"
        return cls(checkpoint.load(CTC.parts), checkpoint.experiment, checkpoint.statistics, fusion, name)

    def with_fusion(self, fusion: Fusion) -> CTCRecogniser:
        """The same model with another search."""
        other = copy.copy(self)
        other.__dict__.pop("search", None)
        other.fusion = fusion
        return other

    @functools.cached_property
    def search(self) -> WordSearch | None:
        """The beam search; None without a language model."""
        return WordSearch(self.fusion, self.vocabulary) if self.fusion.lm else None

    def emissions(self, recordings: Sequence[np.ndarray]) -> list[Float[np.ndarray, "_ V"]]:
        """int16 [S] each → label log-probabilities float32 [T, V] each. Batches hold recordings of like lengths."""
        rate = self.experiment.features.sample_rate
        out: list[np.ndarray] = [np.zeros((0, self.vocabulary.size), np.float32)] * len(recordings)
        heard = [i for i, samples in enumerate(recordings) if self.encoder.output_length(len(samples))]
        sounds = [recordings[i] for i in heard]
        for batch in batches_by_length(sounds, ROWS, lambda longest: bucket(longest, rate)):
            emissions = jax.device_get(
                _hear(self.params, self.statistics, batch.values, batch.lengths, experiment=self.experiment)
            )
            for row, i in enumerate(batch.indices):
                out[heard[i]] = emissions.values[row][emissions.mask[row]]
        return out

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] each at the model's rate → a hypothesis each, in order."""
        ways = self.decode(self.emissions(recordings))
        return ways.get("fused", ways["greedy"])

    def decode(self, emissions: Sequence[np.ndarray]) -> dict[str, list[Hypothesis]]:
        """Label log-probabilities [T, V] each → "greedy" and, with a language model, "fused" hypotheses."""
        ways = {"greedy": [greedy(log_probs, self.vocabulary) for log_probs in emissions]}
        if self.search is not None:
            ways["fused"] = [self.search(log_probs) for log_probs in emissions]
        return ways


def resolve_recogniser(path: str | Path) -> str:
    """The folder from which load_recogniser loads the same weights later: of a training run, its newest step now."""
    folder = Path(path)
    settled = (folder / RECIPE).is_file() or (folder / "config.json").is_file() or folder.name == RECIPE
    return str(folder if settled else Checkpoint.open(folder).folder)


def write_recipe(folder: Path, checkpoint: Path, fusion: Fusion) -> None:
    """Write recogniser.json into a folder, with paths relative to it: what they name may move with it."""
    folder = folder.absolute()
    lm = os.path.relpath(fusion.lm, folder) if fusion.lm else ""
    fields = dataclasses.asdict(dataclasses.replace(fusion, lm=lm))
    recipe = {"checkpoint": os.path.relpath(checkpoint, folder), "fusion": fields}
    write_bytes(folder / RECIPE, json.dumps(recipe, indent=1).encode())


def load_recogniser(path: str | Path, fusion: Fusion | None = None) -> Recogniser:
    """Load the recogniser of a folder with recogniser.json, of a checkpoint, or of a `transformers` model's folder.

    fusion: how to search, in place of recogniser.json's (CTC only). Raises UserError.
    """
    folder = Path(path)
    recipe = folder / RECIPE if folder.is_dir() else folder
    if recipe.name == RECIPE and recipe.is_file():
        try:
            stored = json.loads(recipe.read_text(encoding="utf-8"))
            checkpoint, known = recipe.parent / stored["checkpoint"], build(Fusion, stored["fusion"], "fusion")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{str(recipe)!r} is no recogniser ({error}); write it again.") from error
        if known.lm:
            known = dataclasses.replace(known, lm=str(recipe.parent / known.lm))
        return CTCRecogniser.from_checkpoint(checkpoint, fusion or known)
    if (folder / "config.json").is_file():
        from spectron.recognition.hf import TransformersRecogniser

        return TransformersRecogniser(folder)
    return CTCRecogniser.from_checkpoint(folder, fusion)
