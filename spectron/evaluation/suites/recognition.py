"""Word error rates of recognisers (jiwer's alignment), with intervals over utterances; weights of fusion tuned."""

from __future__ import annotations

import dataclasses
import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.beam import Fusion, WordSearch, greedy
from spectron.config import DataConfig, Experiment, TaskConfig
from spectron.data.corpora import BadExample
from spectron.data.folders import write_text
from spectron.data.labels import Label
from spectron.data.selection import Selection
from spectron.data.sources import make_source, unlimited
from spectron.data.vocabulary import Vocabulary
from spectron.evaluation.picking import spread
from spectron.evaluation.scores.word_errors import errors, word_error_rate
from spectron.overrides import override
from spectron.recognise import CTCRecogniser, load_recogniser
from spectron.student_config import BeamConfig
from spectron.types import Hypothesis, Recogniser, UserError

log = logging.getLogger(__name__)

CHUNK = 64  # ours: recordings read at once


@dataclasses.dataclass(frozen=True)
class Heard:
    """Held-out utterances as a CTC model hears them: ids, texts, seconds and label log-probabilities [T, V] each."""

    ids: list[str]
    texts: list[str]
    seconds: list[float]
    emissions: list[np.ndarray]
    vocabulary: Vocabulary
    checkpoint: str


def hear(checkpoint: str | Path, utterances: Sequence[Any]) -> Heard:
    """Run a checkpoint over utterances (shards.Utterance) once; searches of many weights can share the result."""
    recogniser = load_recogniser(checkpoint, Fusion())
    if not isinstance(recogniser, CTCRecogniser):
        raise UserError(f"{str(checkpoint)!r} is no CTC checkpoint of ours; its frames cannot be searched.")
    emissions = []
    for first in range(0, len(utterances), CHUNK):
        emissions += recogniser.emissions([u.samples() for u in utterances[first : first + CHUNK]])
    return Heard(
        [u.id for u in utterances],
        [" ".join(u.text.split()) for u in utterances],
        [u.num_samples / u.sample_rate for u in utterances],
        emissions,
        recogniser.vocabulary,
        str(checkpoint),
    )


def tune(heard: Heard, config: BeamConfig, lm: str | Path) -> Fusion:
    """The weights of the fewest errors on a few of the held-out utterances."""
    order = sorted(range(len(heard.ids)), key=lambda i: zlib.crc32(heard.ids[i].encode()))[: config.tuning_utterances]
    base = Fusion(str(lm), 0.0, 0.0, config.beam, config.beam_tokens, config.beam_threshold)
    search = WordSearch(base, heard.vocabulary)
    best, fewest = base, float("inf")
    for weight in config.lm_weights:
        for bonus in config.word_bonuses:
            tried = search.with_weights(weight, bonus)
            wrong = sum(errors(heard.texts[i], tried(heard.emissions[i]).text)[0] for i in order)
            if wrong < fewest:
                best, fewest = dataclasses.replace(base, lm_weight=weight, word_bonus=bonus), wrong
    return best


def report(heard: Heard, fusion: Fusion, out: Path, title: str, tuned_on: int = 0) -> dict[str, Any]:
    """Greedy and, with a language model, fused: OUT/items.jsonl, results.md and, last, results.json.

    tuned_on: how many of these very utterances chose the weights of fusion, said in the results.
    """
    found = {"greedy": [greedy(x, heard.vocabulary) for x in heard.emissions]}
    if fusion.lm:
        search = WordSearch(fusion, heard.vocabulary)
        found["fused"] = [search(x) for x in heard.emissions]
    facts: dict[str, Any] = {"title": title, "checkpoint": heard.checkpoint, "fusion": dataclasses.asdict(fusion)}
    if fusion.lm and tuned_on:
        facts["tuned_on"] = min(tuned_on, len(heard.ids))
    return write(out, heard.ids, heard.texts, heard.seconds, found, facts)


def write(
    out: Path,
    ids: Sequence[str],
    texts: Sequence[str],
    seconds: Sequence[float],
    found: dict[str, list[Hypothesis]],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The figures of each way of decoding, and the files. Returns what results.json holds."""
    figures = {name: word_error_rate(name, texts, [h.text for h in each]) for name, each in found.items()}
    lines = []
    for i, name in enumerate(ids):
        row: dict[str, Any] = {"id": name, "seconds": round(seconds[i], 3), "text": texts[i]}
        for way, each in found.items():
            row[way] = {**each[i]._asdict(), "errors": errors(texts[i], each[i].text)[0]}
        lines.append(json.dumps(row, ensure_ascii=False))
    results = {**facts, "utterances": len(ids), "hours": round(sum(seconds) / 3600, 3)}
    results["figures"] = {name: dataclasses.asdict(figure) for name, figure in figures.items()}
    write_text(out / "items.jsonl", "\n".join(lines) + "\n")
    write_text(out / "results.md", markdown(results))
    write_text(out / "results.json", json.dumps(results, indent=1))
    return results


def markdown(results: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [f"{results['title']}: {results['utterances']} utterances, {results['hours']:.2f} h", ""]
    lines += ["| decoding | WER | 95 % interval |", "|---|---|---|"]
    for name, figure in results["figures"].items():
        low, high = 100 * figure["low"], 100 * figure["high"]
        lines.append(f"| {name} | {100 * figure['value']:.1f} % | {low:.1f} to {high:.1f} |")
    if "tuned_on" in results:
        lines += ["", f"The weights of fusion were chosen on {results['tuned_on']} of these utterances."]
    return "\n".join(lines) + "\n"


def label_quality(labels: Sequence[Label], chosen: Selection, said: dict[str, str]) -> dict[str, Any]:
    """The labels' own word error rate, all, kept and rejected, where it is known what was said."""
    known = [label for label in labels if label.id in said]
    kept = [label for label in known if not chosen.reason(label)]
    rejected = [label for label in known if chosen.reason(label)]
    out: dict[str, Any] = {"hours": sum(x.seconds for x in labels) / 3600, "utterances": len(labels)}
    out["hours_kept"] = sum(x.seconds for x in labels if not chosen.reason(x)) / 3600
    for name, group in (("all", known), ("kept", kept), ("rejected", rejected)):
        figure = word_error_rate(name, [said[x.id] for x in group], [x.text for x in group])
        out[name] = dataclasses.asdict(figure)
    reasons = [chosen.reason(label) for label in labels]
    out["reasons"] = {reason or "kept": reasons.count(reason) for reason in sorted(set(reasons))}
    return out


# The command.


def task_of(name: str, experiment: Experiment) -> TaskConfig:
    """A task of the experiment by its name, or KIND:ROOT (manifest, librispeech, shards). Raises UserError."""
    kind, sign, root = name.partition(":")
    if sign and kind in ("manifest", "librispeech", "shards"):
        return TaskConfig(name, kind, root=root)
    for task in experiment.data.tasks:
        if task.name == name:
            return task
    known = ", ".join(task.name for task in experiment.data.tasks)
    raise UserError(f"--task {name!r} is unknown; give one of the checkpoint's ({known or 'none'}) or manifest:PATH.")


def evaluate(
    path: str | Path,
    task: str,
    out: str | Path,
    overrides: Sequence[str] = (),
    fusion: Fusion | None = None,
    limit: int = 0,
) -> dict[str, Any]:
    """Transcribe a task's utterances and score them against its texts; results.json, results.md and items.jsonl in OUT.

    path: as load_recogniser takes it. fusion: another search than its own. limit: only so many utterances, evenly
    spread.
    """
    from tqdm import tqdm

    recogniser = load_recogniser(path, fusion)
    ours = isinstance(recogniser, CTCRecogniser)
    experiment = (
        recogniser.experiment if isinstance(recogniser, CTCRecogniser) else Experiment("elsewhere", DataConfig(), ())
    )
    experiment = override(experiment, overrides)
    source = make_source(task_of(task, experiment), unlimited(experiment.data), experiment.features)
    ids, texts, seconds, bad = [], [], [], 0
    found: dict[str, list[Hypothesis]] = {"greedy": []} if ours else {"own": []}
    if isinstance(recogniser, CTCRecogniser) and recogniser.search is not None:
        found["fused"] = []
    chosen = spread(range(len(source)), limit or len(source))
    for first in tqdm(range(0, len(chosen), CHUNK), desc="recognising", unit="batch", disable=None):
        examples = []
        for i in chosen[first : first + CHUNK]:
            try:
                examples.append(source[i])
            except BadExample as error:
                bad += 1
                log.warning("Left out: %s", error)
        recordings = [example.samples for example in examples]
        for way, each in transcripts(recogniser, recordings).items():
            found[way] += each
        ids += [example.id for example in examples]
        texts += [example.text for example in examples]
        seconds += [len(samples) / experiment.features.sample_rate for samples in recordings]
    facts = {"title": f"{task}, {recogniser.name}", "checkpoint": str(path), "left_out": bad}
    if isinstance(recogniser, CTCRecogniser):
        facts["fusion"] = dataclasses.asdict(recogniser.fusion)
    return write(Path(out), ids, texts, seconds, found, facts)


def transcripts(recogniser: Recogniser, recordings: list[np.ndarray]) -> dict[str, list[Hypothesis]]:
    """Each way of decoding → a hypothesis per recording; our own models are run once for all of them."""
    if not isinstance(recogniser, CTCRecogniser):
        return {"own": recogniser.transcribe(recordings)}
    emissions = recogniser.emissions(recordings)
    found = {"greedy": [greedy(x, recogniser.vocabulary) for x in emissions]}
    if recogniser.search is not None:
        found["fused"] = [recogniser.search(x) for x in emissions]
    return found
