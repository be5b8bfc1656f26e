"""Word error rates of recognisers (jiwer's alignment), with intervals over utterances; weights of fusion tuned."""

from __future__ import annotations

import dataclasses
import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectron.config import DataConfig, Experiment, FeatureConfig, TaskConfig
from spectron.config.noisy_student import BeamConfig
from spectron.config.overrides import override
from spectron.corpora.labels import Label
from spectron.corpora.selection import ScoreFilter
from spectron.data.example import BadExample
from spectron.data.sources import make_source, unlimited
from spectron.data.vocabulary import Vocabulary
from spectron.evaluation.judges.outside import facts_of
from spectron.evaluation.picking import spread
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.scores import tables
from spectron.evaluation.scores.intervals import average
from spectron.evaluation.scores.tables import Results, Table, plain
from spectron.evaluation.scores.text_scores import plain_words
from spectron.evaluation.scores.word_errors import WER, errors, word_error_rate
from spectron.evaluation.suites.answers import checksum, judge_items
from spectron.recognition.ctc_search import Fusion, WordSearch, greedy
from spectron.recognition.recogniser import CTCRecogniser, load_recogniser
from spectron.types import Example, Hypothesis, Recogniser, UserError
from spectron.utils.files import check_out, write_text

log = logging.getLogger(__name__)

CHUNK = 64  # ours: recordings read at once
SHOWN, PLAYERS = 240, 32  # ours: utterances on the page, and those of them with sounds, which make it heavy
PLAIN = "Both texts in lower case, without accents and punctuation."
UNUSABLE = "that cannot be used"


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


def label_quality(labels: Sequence[Label], chosen: ScoreFilter, said: dict[str, str]) -> dict[str, Any]:
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
) -> Results:
    """Transcribe a task's utterances and score them against its texts; results and report.html in OUT. Killed and
    called again, it goes on.

    path: as load_recogniser takes it. fusion: another search than its own. limit: only so many utterances, evenly
    spread (0: all). Raises UserError.
    """
    if limit < 0:
        raise UserError(f"--limit {limit} must be above 0, or 0 for all utterances.")
    check_out(out)
    page.check()
    errors("", "")  # what counts them is installed, or that is said now
    recogniser, out = load_recogniser(path, fusion), Path(out)
    judge = facts_of(recogniser)
    if isinstance(recogniser, CTCRecogniser):
        _ = recogniser.search  # a language model that cannot be read is refused before anything is heard
    ours = recogniser.experiment if isinstance(recogniser, CTCRecogniser) else None
    experiment = override(ours or Experiment("elsewhere", DataConfig(), ()), overrides)
    features = experiment.features
    source = make_source(task_of(task, experiment), unlimited(experiment.data), features)
    chosen, left_out, data = survey(source, task, limit)
    facts = {"recogniser": str(path), "task": task, "set": list(overrides), "limit": limit, "left_out": left_out}

    def work(numbers: range) -> list[dict[str, Any]]:
        examples = [source[chosen[i]] for i in numbers]
        found = transcripts(recogniser, [example.samples for example in examples])
        return [
            record(example, {way: each[i] for way, each in found.items()}, features.sample_rate)
            for i, example in enumerate(examples)
        ]

    plan = {**facts, "judge": judge, "utterances": data, "jax": f"{jax.__version__} {jax.default_backend()}"}
    records = judge_items(out / "work" / "recognition", plan, len(chosen), CHUNK, work, "recognising")
    facts["hours"] = round(sum(each["seconds"] for each in records) / 3600, 3)
    results = Results("recognition", [table_of(records)], facts, [judge], [data])
    lines = (json.dumps(plain(each), ensure_ascii=False) + "\n" for each in records)
    write_text(out / "items.jsonl", "".join(lines))
    _page(out / "report.html", results, records, lambda i: source[chosen[i]].samples, features)
    write_text(out / "results.md", tables.markdown(results))
    write_text(out / "results.json", results.to_json())
    return results


def survey(source: Any, task: str, limit: int) -> tuple[list[int], dict[str, int], dict[str, Any]]:
    """(numbers of the utterances, how many were left out by reason, what results say of them): reads each once.

    Raises UserError where there is none.
    """
    kept: list[int] = []
    left_out = {reason: len(ids) for reason, ids in source.rejected.items()}

    def contents() -> Iterator[bytes]:
        for i in spread(range(len(source)), limit or len(source)):
            try:
                example = source[i]
            except BadExample as error:
                log.warning("Left out: %s", error)
                left_out[UNUSABLE] = left_out.get(UNUSABLE, 0) + 1
            else:
                kept.append(i)
                yield from (example.id.encode(), example.text.encode(), example.samples.tobytes())

    digest = checksum(contents())
    if not kept:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise UserError(f"--task {task!r} has no utterance to transcribe: {why or 'it is empty'}; choose another.")
    return kept, left_out, {"name": task, "items": len(kept), "checksum": digest}


def record(example: Example, found: dict[str, Hypothesis], rate: int) -> dict[str, Any]:
    """What items.jsonl says of an utterance: way of decoding → hypothesis and its errors over so many words."""
    text = " ".join(example.text.split())
    told: dict[str, Any] = {"id": example.id, "seconds": round(len(example.samples) / rate, 3), "text": text}
    for way, hypothesis in found.items():
        wrong, words = errors(*(" ".join(plain_words(each)) for each in (text, hypothesis.text)))
        told[way] = {**hypothesis._asdict(), "errors": wrong, "words": words}
    return told


def table_of(records: Sequence[dict[str, Any]]) -> Table:
    """The rate over all words; a row for each way of decoding."""
    rows = {}
    for way in ways(records[0]):
        wrong, words = ([each[way][key] for each in records] for key in ("errors", "words"))
        rows[way] = {"WER": average("WER", wrong, f"{WER} {PLAIN}", "%", words)}
    return Table("Word error rate", rows)


def ways(record: dict[str, Any]) -> list[str]:
    """The ways of decoding that a record holds."""
    return [name for name in ("own", "greedy", "fused") if name in record]


def _page(
    path: Path,
    results: Results,
    records: Sequence[dict[str, Any]],
    hear: Callable[[int], np.ndarray],
    features: FeatureConfig,
) -> None:
    chosen = spread(range(len(records)), SHOWN)
    heard = set(spread(chosen, PLAYERS))
    items = []
    for i in chosen:
        each, best = records[i], ways(records[i])[-1]
        cells = {"Text": Cell(each["text"])}
        for way in ways(each):
            cells[way.capitalize()] = Cell(each[way]["text"], each[way]["errors"] == 0)
            cells[f"Errors, {way}"] = Cell(str(each[way]["errors"]), value=each[way]["errors"], brief=True)
        cells["Seconds"] = Cell(f"{each['seconds']:.2f}", value=each["seconds"], brief=True)
        sounds = [("utterance", hear(i))] if i in heard else []
        items.append(page.Item(each["id"], cells, sounds, right=each[best]["errors"] == 0, description=each["text"]))
    intro = ["Utterances as a recogniser hears them, beside what was said. Below the figures: the utterances."]
    if len(chosen) < len(records):
        intro.append(f"{len(chosen)} of {len(records)} are shown, evenly spread; all are in items.jsonl.")
    page.write(path, results, items, intro, features, "Utterance")


def transcripts(recogniser: Recogniser, recordings: list[np.ndarray]) -> dict[str, list[Hypothesis]]:
    """Each way of decoding → a hypothesis per recording; our own models are run once for all of them."""
    if not isinstance(recogniser, CTCRecogniser):
        return {"own": recogniser.transcribe(recordings)}
    emissions = recogniser.emissions(recordings)
    found = {"greedy": [greedy(x, recogniser.vocabulary) for x in emissions]}
    if recogniser.search is not None:
        found["fused"] = [recogniser.search(x) for x in emissions]
    return found
