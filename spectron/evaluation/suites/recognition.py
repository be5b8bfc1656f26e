"""`spectron evaluate recognition`: the word error rate of a recogniser, greedy and with a language model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectron.config import DataConfig, Experiment, override
from spectron.data.example import BadExample
from spectron.data.sources import make_source, unlimited
from spectron.evaluation.judges.base import facts_of
from spectron.evaluation.metrics import wer
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Results, Table
from spectron.evaluation.suite import Record, Suite, check_output, number_cell, reasons, run_suite
from spectron.evaluation.suites.utterances import UNUSABLE, task_of
from spectron.recognition.ctc_search import Fusion
from spectron.recognition.recogniser import CTCRecogniser, load_recogniser
from spectron.types import Hypothesis, Recogniser, UserError
from spectron.utils.chunk_cache import ChunkCache, checksum
from spectron.utils.spacing import evenly_spaced

log = logging.getLogger(__name__)

CHUNK = 64  # ours: recordings read at once
Ways = dict[str, list[Hypothesis]]  # way of decoding ("own", "greedy", "fused") → a hypothesis per recording


def evaluate_recognition(
    path: str | Path,
    task: str,
    out: str | Path,
    overrides: Sequence[str] = (),
    fusion: Fusion | None = None,
    limit: int = 0,
) -> Results:
    """Transcribe a task's utterances and score them against its texts; results and report.html in OUT.

    Resumes if interrupted. path: as load_recogniser takes it. fusion: another search than its own. limit: at most N
    utterances, evenly spread (0: all). Raises UserError.
    """
    if limit < 0:
        raise UserError(f"--limit {limit} must be above 0, or 0 for all utterances.")
    check_output(out)
    wer.word_errors("", "")  # raises now if a package is missing
    recogniser = load_recogniser(path, fusion)
    judge = facts_of(recogniser)
    if isinstance(recogniser, CTCRecogniser):
        _ = recogniser.search  # raises now if its language model cannot be read
    ours = recogniser.experiment if isinstance(recogniser, CTCRecogniser) else None
    experiment = override(ours or Experiment("elsewhere", DataConfig(), ()), overrides)
    source = make_source(task_of(task, experiment), unlimited(experiment.data), experiment.features)
    chosen, left_out, data = survey(source, task, limit)
    facts = {"recogniser": str(path), "task": task, "set": list(overrides), "limit": limit, "left_out": left_out}

    def transcribe(indices: range) -> Ways:
        return transcripts(recogniser, [source[chosen[i]].samples for i in indices])

    utterances = Utterances(lambda i: source[chosen[i]], len(chosen), transcribe)
    suite = RecognitionSuite(
        facts=facts, judges=[judge], data=[data], features=experiment.features, utterances=utterances
    )
    return run_suite(suite, out)


@dataclasses.dataclass(frozen=True)
class Utterances:
    """What is transcribed. get(i): an object with id, text and samples; transcribe(indices): their hypotheses."""

    get: Callable[[int], Any]
    count: int
    transcribe: Callable[[range], Ways]


@dataclasses.dataclass(kw_only=True)
class RecognitionSuite(Suite):
    """One row for each way of decoding."""

    name = "recognition"
    item_name = "Utterance"
    intro = "Utterances as a recogniser hears them, against what was said. Below the figures: the utterances."

    utterances: Utterances
    note: str = ""

    def measure(self, work: Path) -> Sequence[Record]:
        """Hypotheses of every utterance and their errors."""

        def transcribe(indices: range) -> list[Record]:
            found = self.utterances.transcribe(indices)
            return [self._record(i, {way: each[i - indices.start] for way, each in found.items()}) for i in indices]

        jax_version = f"{jax.__version__} {jax.default_backend()}"
        plan = {**self.facts, "judge": self.judges[0], "utterances": self.data[0], "jax": jax_version}
        cache = ChunkCache(work / "recognition", plan)
        records: list[Record] = cache.records(self.utterances.count, CHUNK, transcribe, "recognising")
        self.facts["hours"] = round(sum(each["seconds"] for each in records) / 3600, 3)
        return records

    def _record(self, i: int, hypotheses: Mapping[str, Hypothesis]) -> Record:
        utterance = self.utterances.get(i)
        text = " ".join(utterance.text.split())
        record = {
            "id": utterance.id,
            "seconds": round(len(utterance.samples) / self.features.sample_rate, 3),
            "text": text,
        }
        for way, hypothesis in hypotheses.items():
            errors, words = wer.word_errors(text, hypothesis.text)
            record[way] = {**hypothesis._asdict(), "errors": errors, "words": words}
        return record

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """The rate over all words."""
        rows = {}
        for way in ways(records[0]):
            errors, words = ([each[way][key] for each in records] for key in ("errors", "words"))
            rows[way] = {"WER": wer.wer_figure("WER", errors, words)}
        return [Table("Word error rate", rows, self.note)]

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """The text beside the hypotheses."""
        cells = {"Text": Cell(record["text"])}
        for way in ways(record):
            errors = record[way]["errors"]
            cells[way.capitalize()] = Cell(record[way]["text"], errors == 0)
            cells[f"Errors, {way}"] = number_cell(errors, decimals=0)
        cells["Seconds"] = number_cell(record["seconds"])
        sounds = [("utterance", self.utterances.get(i).samples)] if with_media else []
        right = record[ways(record)[-1]]["errors"] == 0
        return page.Item(record["id"], cells, sounds, right=right, description=record["text"])


def ways(record: Record) -> list[str]:
    """The ways of decoding that a record holds."""
    return [name for name in ("own", "greedy", "fused") if name in record]


def survey(source: Any, task: str, limit: int) -> tuple[list[int], dict[str, int], dict[str, Any]]:
    """(indices of the utterances, how many were left out by reason, the data's entry in the results); reads each once.

    Raises UserError if there is none.
    """
    kept: list[int] = []
    left_out = {reason: len(ids) for reason, ids in source.rejected.items()}

    def contents() -> Iterator[bytes]:
        for i in evenly_spaced(range(len(source)), limit or len(source)):
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
        why = reasons(left_out) or "it is empty"
        raise UserError(f"--task {task!r} has no utterance to transcribe: {why}; choose another.")
    return kept, left_out, {"name": task, "items": len(kept), "checksum": digest}


def transcripts(recogniser: Recogniser, recordings: list[np.ndarray]) -> Ways:
    """A hypothesis per recording for each way of decoding; our own models run once for all of them."""
    if not isinstance(recogniser, CTCRecogniser):
        return {"own": recogniser.transcribe(recordings)}
    return recogniser.decode(recogniser.emissions(recordings))
