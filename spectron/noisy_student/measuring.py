"""How a generation is measured: weights of fusion tuned on held-out speech, and the labels' own word errors."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.config.noisy_student import BeamConfig
from spectron.corpora.labels import Label
from spectron.corpora.selection import ScoreFilter
from spectron.evaluation.judges.base import facts_of
from spectron.evaluation.metrics.wer import wer_figure, word_errors
from spectron.evaluation.results import Results
from spectron.evaluation.suite import run_suite
from spectron.evaluation.suites.recognition import RecognitionSuite, Utterances
from spectron.recognition.ctc_search import Fusion, WordSearch
from spectron.recognition.recogniser import CTCRecogniser, load_recogniser
from spectron.types import UserError
from spectron.utils.chunk_cache import checksum

CHUNK = 64  # ours: recordings read at once


@dataclasses.dataclass(frozen=True)
class HeldOutSpeech:
    """Held-out utterances (data.shards.Utterance) and a checkpoint's label log-probabilities [T, V] of each."""

    recogniser: CTCRecogniser
    utterances: Sequence[Any]
    emissions: Sequence[np.ndarray]


def hear(checkpoint: str | Path, utterances: Sequence[Any]) -> HeldOutSpeech:
    """Run a checkpoint over utterances once, for searches of many weights. Raises UserError."""
    recogniser = load_recogniser(checkpoint, Fusion())
    if not isinstance(recogniser, CTCRecogniser):
        raise UserError(f"{str(checkpoint)!r} is no CTC checkpoint of ours; its frames cannot be searched.")
    emissions = []
    for first in range(0, len(utterances), CHUNK):
        emissions += recogniser.emissions([u.samples() for u in utterances[first : first + CHUNK]])
    return HeldOutSpeech(recogniser, utterances, emissions)


def tune(speech: HeldOutSpeech, config: BeamConfig, lm: str | Path) -> Fusion:
    """The weights with the fewest word errors on config.tuning_utterances of the held-out utterances."""
    ids = [utterance.id for utterance in speech.utterances]
    chosen = sorted(range(len(ids)), key=lambda i: zlib.crc32(ids[i].encode()))[: config.tuning_utterances]
    base = Fusion(str(lm), 0.0, 0.0, config.beam, config.beam_tokens, config.beam_threshold)
    search = WordSearch(base, speech.recogniser.vocabulary)
    best, fewest = base, float("inf")
    for weight in config.lm_weights:
        for bonus in config.word_bonuses:
            candidate = search.with_weights(weight, bonus)
            errors = sum(word_errors(speech.utterances[i].text, candidate(speech.emissions[i]).text)[0] for i in chosen)
            if errors < fewest:
                best, fewest = dataclasses.replace(base, lm_weight=weight, word_bonus=bonus), errors
    return best


def report(speech: HeldOutSpeech, fusion: Fusion, out: Path, title: str, tuned_on: int = 0) -> Results:
    """The results of `spectron evaluate recognition` on the held-out utterances, in OUT.

    tuned_on: how many of these very utterances chose the weights of fusion, stated in the results.
    """
    recogniser, utterances = speech.recogniser.with_fusion(fusion), speech.utterances
    count = len(utterances)
    facts: dict[str, Any] = {"title": title, "recogniser": recogniser.name, "fusion": dataclasses.asdict(fusion)}
    note = ""
    if fusion.lm and tuned_on:
        facts["tuned_on"] = min(tuned_on, count)
        note = f"The weights of fusion were chosen on {facts['tuned_on']} of these utterances."
    texts = (part for u in utterances for part in (u.id.encode(), u.text.encode()))
    data = {"name": "dev", "items": count, "checksum": checksum(texts)}
    source = Utterances(
        get=lambda i: _Heard(utterances[i].id, utterances[i].text, utterances[i].samples()),
        count=count,
        transcribe=lambda indices: recogniser.decode([speech.emissions[i] for i in indices]),
    )
    suite = RecognitionSuite(
        facts=facts,
        judges=[facts_of(recogniser)],
        data=[data],
        features=recogniser.experiment.features,
        utterances=source,
        note=note,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(frozen=True)
class _Heard:
    id: str
    text: str
    samples: np.ndarray


def label_quality(labels: Sequence[Label], chosen: ScoreFilter, texts: dict[str, str]) -> dict[str, Any]:
    """The labels' own word error rate, all, kept and rejected, of those whose true text is known (id → text)."""
    known = [label for label in labels if label.id in texts]
    groups = {
        "all": known,
        "kept": [label for label in known if not chosen.reason(label)],
        "rejected": [label for label in known if chosen.reason(label)],
    }
    out: dict[str, Any] = {"hours": sum(x.seconds for x in labels) / 3600, "utterances": len(labels)}
    out["hours_kept"] = sum(x.seconds for x in labels if not chosen.reason(x)) / 3600
    for name, group in groups.items():
        errors = [word_errors(texts[x.id], x.text) for x in group]
        out[name] = dataclasses.asdict(wer_figure(name, [e for e, _ in errors], [n for _, n in errors]))
    reasons = [chosen.reason(label) for label in labels]
    out["reasons"] = {reason or "kept": reasons.count(reason) for reason in sorted(set(reasons))}
    return out
