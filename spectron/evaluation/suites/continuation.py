"""`spectron evaluate continuation`: prompts of real speech continued, judged against the real continuation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.config import FeatureConfig
from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics.similarity import course_table
from spectron.evaluation.results import Results, Table
from spectron.evaluation.suite import Record, check_output, run_suite
from spectron.evaluation.suites import generation, speaking
from spectron.evaluation.suites.judge_runner import JudgeRunner, Judges, Recordings
from spectron.evaluation.suites.speaking import Row, SpeakingSuite
from spectron.evaluation.suites.utterances import SplitUtterance, cut, data_facts, read_examples, speakable
from spectron.inference.api import Spectron
from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache, checksum
from spectron.vocoders.copy_synthesis import copy_synthesis

OURS, TRUTH, COPY = "Spectron", "ground truth", "ground truth, copy synthesis"


def evaluate_continuation(
    checkpoint: str | Path,
    task: str,
    out: str | Path,
    judges: Judges | None = None,
    split: str = "",
    prompt_seconds: float = 0.0,
    seeds: int = 1,
    batch_size: int = 8,
    limit: int = 0,
    overrides: Sequence[str] = (),
) -> Results:
    """Continue a task's utterances; results and report.html in OUT. Resumes if interrupted.

    task: one of the checkpoint's, or KIND:PATH. split: instead of the task's. prompt_seconds: 0 takes the task's own.
    judges: without any, only what needs no judge is measured. overrides: "key=value" for the checkpoint's experiment.
    Raises UserError.
    """
    if not 0 <= prompt_seconds < math.inf:
        raise UserError(f"--prompt-seconds {prompt_seconds:g} is no length; give seconds, or leave it out.")
    check_output(out)
    generator, facts = generation.load_generator(checkpoint, overrides, seeds, batch_size, limit)
    experiment = generator.experiment
    size = round(prompt_seconds * RATE)
    if prompt_seconds:
        check_length("--prompt-seconds", prompt_seconds, experiment.features)
    checks = [speakable(experiment, size)]
    examples, left_out = read_examples(experiment, task, split, prompt_seconds, limit, checks)
    items = [cut(example, size or example.prompt_samples) for example in examples]
    lengths = sorted(len(item.prompt) / RATE for item in items)
    facts |= {"task": task, "split": split, "prompt_seconds": prompt_seconds, "prompts": [lengths[0], lengths[-1]]}
    facts["left_out"] = left_out
    return continue_items(generator, items, out, judges or Judges(), facts, seeds, batch_size)


def check_length(flag: str, seconds: float, features: FeatureConfig) -> None:
    """Raise UserError for a prompt shorter than a frame."""
    if round(seconds * RATE) < features.hop:
        least = features.hop / RATE
        raise UserError(f"{flag} {seconds:g} is shorter than a frame of the model; give at least {least:g} seconds.")


def continue_items(
    generator: Spectron,
    items: Sequence[SplitUtterance],
    out: str | Path,
    judges: Judges,
    facts: Mapping[str, Any],
    seeds: int = 1,
    batch_size: int = 8,
) -> Results:
    """The suite on items already cut. facts: what identifies checkpoint and settings."""
    suite = ContinuationSuite(
        facts=dict(facts),
        judges=judges.facts(),
        data=[data_facts(f"{facts.get('task', '')} {facts.get('split', '')}".strip(), items)],
        features=generator.features,
        generator=generator,
        items=items,
        panel=judges,
        seeds=seeds,
        batch_size=batch_size,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class ContinuationSuite(SpeakingSuite):
    """The model's continuations, the true ones, and the true ones after copy synthesis."""

    name = "continuation"
    intro = (
        "Every prompt is heard, written down and continued in one decoding pass. Below the figures: the first decoding "
        "seed's answers against the real continuation."
    )

    seeds: int
    batch_size: int
    rows: dict[str, Row] = dataclasses.field(default_factory=dict)

    def measure(self, work: Path) -> list[Record]:
        """Decode, judge, and judge the reference."""
        prompts, rests = [item.prompt for item in self.items], [item.rest for item in self.items]
        runner, size = JudgeRunner(self.panel, work, self.batch_size), self.batch_size
        generator = generation.with_room(self.generator, prompts)
        plan = generation.plan_of(generator, self.facts)
        answers = []
        for seed in range(self.seeds):
            folder, label = work / f"answers-{seed}", f"decoding, seed {seed}"
            answers.append(generation.generate_all(generator, prompts, folder, plan, seed, size, label=label))
        self.prompt_words = speaking.prompt_words(self.items, runner)
        voices = runner.voices("prompts", prompts, with_windows=False) if self.panel.speaker else []
        samples = [[answer.samples for answer in of_seed] for of_seed in answers]
        by_seed = []
        for seed, of_seed in enumerate(answers):
            judged = runner.judge(f"answers-{seed}", samples[seed], voices)
            measured = zip(self.items, self.prompt_words, of_seed, judged, strict=True)
            by_seed.append([speaking.measure(*each) for each in measured])
        self._add(OURS, samples, list(zip(*by_seed, strict=True)))
        copies = copy_items(rests, self.features, work / "copies", size)
        for name, sounds, row in (("truth", rests, TRUTH), ("copies", copies, COPY)):
            judged = runner.judge(name, sounds, voices)
            truths = zip(self.items, self.prompt_words, sounds, judged, strict=True)
            self._add(row, [sounds], [[speaking.true_measure(*each)] for each in truths])
        return [answer.record() for answer in self.answers]

    def _add(self, name: str, samples: Sequence[Recordings], measured: Row) -> None:
        self.rows[name] = measured
        self.add_row(name, self.items, samples, measured)

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """A row for the model and for each of the two truths."""
        quality = self.panel.quality()
        rows = {name: speaking.figures(row, quality) for name, row in self.rows.items()}
        courses = {name: [[m.judgement.course for m in each] for each in row] for name, row in self.rows.items()}
        return [*speaking.titled("Continuation", rows, self._note(), quality), *course_table(courses)]

    def _note(self) -> str:
        """What the table could not measure, and why."""
        lacking = {
            "a recogniser (--asr)": self.panel.asr,
            "a language model (--lm)": self.panel.lm,
            "a speaker encoder (--speaker)": self.panel.speaker,
            "a judge of quality (--dnsmos)": self.panel.mos,
        }
        absent = [name for name, judge in lacking.items() if judge is None]
        note = "Texts are scored by the language model in lower case. Utterances with more after the prompt than the "
        note += "model has time to say are left out (left_out). "
        note += f"Not used: {', '.join(absent)}. " if absent else ""
        return (note + speaking.unknown_ends(self.panel, self.prompt_words)).strip()


def copy_items(recordings: Recordings, features: FeatureConfig, folder: Path, size: int) -> list[Int[np.ndarray, " S"]]:
    """Recordings after log-mel and Griffin-Lim, cached: what the vocoder alone takes away."""
    plan = {"features": dataclasses.asdict(features), "recordings": checksum(r.tobytes() for r in recordings)}

    def work(indices: range) -> bytes:
        copies = copy_synthesis([recordings[i] for i in indices], features)
        return generation.pack([generation.Generated("", samples, False) for samples in copies])

    chunks = ChunkCache(folder, {**plan, "size": size}).chunks(len(recordings), size, work, "copy synthesis")
    return [each.samples for chunk in chunks for each in generation.unpack(chunk)]
