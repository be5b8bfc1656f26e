"""Causal language models as judges: models of `transformers`, and the text decoders of our own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import spectron
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.evaluation.judges.base import LanguageModel, facts, version_of
from spectron.inference.hf_text_lm import TransformersDecoder
from spectron.inference.text_lm import TextDecoder
from spectron.utils.files import checksum_of


class JudgingLM:
    """A text LM with its entry in the results. settings: what decides its scores besides the weights."""

    def __init__(
        self, lm: TransformersDecoder | TextDecoder, name: str, version: str, settings: Mapping[str, Any], checksum: str
    ):
        self.lm, self.score, self.complete = lm, lm.score, lm.complete
        self.facts = facts("language model", name, version, settings, checksum)


def load_language_model(path: str | Path) -> LanguageModel:
    """The model of a `transformers` folder (config.json), or the part `lm` of one of our checkpoints.

    Ours is used causally and without a prefix: every token is scored, the first one after sos. Raises UserError.
    """
    if (Path(path) / "config.json").is_file():
        decoder = TransformersDecoder(path)
        version, checksum = f"transformers {version_of('transformers')}", checksum_of([Path(path)])
        return JudgingLM(decoder, str(path), version, decoder.settings, checksum)
    checkpoint = Checkpoint.open(path)
    settings = {"stage": checkpoint.stage, "step": checkpoint.step, "begins_with": "sos"}
    version, checksum = f"spectron {spectron.__version__}", checkpoint.facts["weights"]
    return JudgingLM(TextDecoder(checkpoint), str(path), version, settings, checksum)
