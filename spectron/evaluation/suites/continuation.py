"""`spectron evaluate continuation`: prompts of real speech continued, judged beside what truly follows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.config import FeatureConfig
from spectron.evaluation.judges.outside import RATE, checkpoint_facts
from spectron.evaluation.report import page
from spectron.evaluation.scores.alignment import fit_text
from spectron.evaluation.scores.tables import Results, markdown, plain
from spectron.evaluation.suites import speaking_page
from spectron.evaluation.suites.answers import Said, answer_items, checksum, pack, unpack
from spectron.evaluation.suites.measures import Row, figures, measure, over_time, titled, true_measure
from spectron.evaluation.suites.panel import Hearing, Panel, Recordings
from spectron.evaluation.suites.utterances import (
    Item,
    configured,
    cut,
    data_facts,
    plan_of,
    read_examples,
    speakable,
    with_room,
)
from spectron.inference.api import Spectron
from spectron.types import UserError
from spectron.utils.chunk_cache import Journal
from spectron.utils.files import write_text
from spectron.vocoders.copy_synthesis import copy_synthesis

OURS, TRUTH, COPY = "Spectron", "ground truth", "ground truth, copy synthesis"
WORK = "work"  # below OUT: what was done, kept for a run that goes on


def evaluate_continuation(
    checkpoint: str | Path,
    task: str,
    out: str | Path,
    panel: Panel | None = None,
    split: str = "",
    prompt_seconds: float = 0.0,
    seeds: int = 1,
    batch_size: int = 8,
    limit: int = 0,
    overrides: Sequence[str] = (),
) -> Results:
    """Continue a task's utterances; results and report.html in OUT. Killed and called again, it goes on.

    task: one of the checkpoint's, or KIND:PATH. split: instead of the task's. prompt_seconds: 0 takes the task's own.
    panel: who judges; without anyone, only what needs no judge is measured. overrides: "key=value" for the checkpoint's
    experiment, such as data.root. Raises UserError.
    """
    if not 0 <= prompt_seconds < math.inf:
        raise UserError(f"--prompt-seconds {prompt_seconds:g} is no length; give seconds, or leave it out.")
    generator, facts = load(checkpoint, overrides, seeds, batch_size, limit)
    experiment = generator.experiment
    size = round(prompt_seconds * RATE)
    if prompt_seconds:
        check_length("--prompt-seconds", prompt_seconds, experiment.features)
    checks = [speakable(experiment, size)]
    examples, left_out = read_examples(experiment, task, split, prompt_seconds, limit, checks)
    items = [cut(example, size or example.prompt_samples) for example in examples]
    heard = sorted(len(item.prompt) / RATE for item in items)
    facts |= {"task": task, "split": split, "prompt_seconds": prompt_seconds, "prompts": [heard[0], heard[-1]]}
    facts["left_out"] = left_out
    return continue_items(generator, items, out, panel or Panel(), facts, seeds, batch_size)


def check_length(flag: str, seconds: float, features: FeatureConfig) -> None:
    """Raise UserError for a prompt that holds no frame."""
    if round(seconds * RATE) < features.hop:
        least = features.hop / RATE
        raise UserError(f"{flag} {seconds:g} is shorter than a frame of the model; give at least {least:g} seconds.")


def load(
    checkpoint: str | Path, overrides: Sequence[str], seeds: int, batch_size: int, limit: int
) -> tuple[Spectron, dict[str, Any]]:
    """A checkpoint that speaks at the judges' rate, and the facts that identify a run of it. Raises UserError."""
    if seeds < 1 or batch_size < 1 or limit < 0:
        raise UserError("--seeds and --batch-size must be at least 1, and --limit at least 0.")
    page.check()
    names: dict[str, Any] = {**checkpoint_facts(checkpoint)}
    generator = configured(Spectron.from_checkpoint(names["checkpoint"]), overrides)
    rate = generator.experiment.features.sample_rate
    if rate != RATE:
        raise UserError(f"features.sample_rate={rate}: the judges hear {RATE} Hz only; evaluate a model of that rate.")
    names |= {"experiment": generator.experiment.name, "set": list(overrides)}
    return generator, names | {"decoding_seeds": seeds, "batch_size": batch_size, "limit": limit}


def continue_items(
    generator: Spectron,
    items: Sequence[Item],
    out: str | Path,
    panel: Panel,
    facts: Mapping[str, Any],
    seeds: int = 1,
    batch_size: int = 8,
) -> Results:
    """The suite on items already cut; facts: what identifies checkpoint and settings."""
    out, prompts, rests = Path(out), [item.prompt for item in items], [item.rest for item in items]
    hearing = Hearing(panel, out / WORK, batch_size)
    generator = with_room(generator, prompts)
    plan = plan_of(generator, facts)
    said = [
        answer_items(
            generator, prompts, out / WORK / f"answers-{seed}", plan, seed, batch_size, what=f"decoding, seed {seed}"
        )
        for seed in range(seeds)
    ]
    heard = prompt_words(items, hearing)
    voices = hearing.voices("prompts", prompts, windows=False) if panel.speaker else []
    spoken = [
        hearing.opinions(f"answers-{seed}", [each.samples for each in row], voices) for seed, row in enumerate(said)
    ]
    measured: dict[str, Row] = {
        OURS: [
            [measure(item, heard[i], said[s][i], spoken[s][i]) for s in range(seeds)] for i, item in enumerate(items)
        ]
    }
    copies = copy_items(rests, generator.features, out / WORK / "copies", batch_size)
    for name, sounds, row in (("truth", rests, TRUTH), ("copies", copies, COPY)):
        told = hearing.opinions(name, sounds, voices)
        measured[row] = [[true_measure(*each)] for each in zip(items, heard, sounds, told, strict=True)]
    quality = getattr(panel.mos, "measures", {})
    found = {name: figures(row, quality) for name, row in measured.items()}
    tables = [*titled("Continuation", found, _note(panel, heard), quality), *over_time(measured)]
    name = f"{facts.get('task', '')} {facts.get('split', '')}".strip()
    results = Results("continuation", tables, facts, panel.facts(), [data_facts(name, items)])
    write_items(out / "items.jsonl", {name: (items, row) for name, row in measured.items()})
    shown = [(OURS, item, answer.samples, m[0]) for item, answer, m in zip(items, said[0], measured[OURS], strict=True)]
    speaking_page.write(out / "report.html", results, shown, speaking_page.CONTINUATION, generator.features)
    write(out, results)
    return results


def copy_items(recordings: Recordings, features: FeatureConfig, folder: Path, size: int) -> list[Int[np.ndarray, " S"]]:
    """Recordings after log-mel and Griffin-Lim, kept like the answers: what the vocoder alone takes away."""
    plan = {"features": dataclasses.asdict(features), "recordings": checksum(r.tobytes() for r in recordings)}

    def work(numbers: range) -> bytes:
        made = copy_synthesis([recordings[i] for i in numbers], features)
        return pack([Said("", samples, False) for samples in made])

    chunks = Journal(folder, {**plan, "size": size})(len(recordings), size, work, "copy synthesis")
    return [said.samples for chunk in chunks for said in unpack(chunk)]


def write(out: Path, results: Results) -> None:
    """results.md and, last, results.json."""
    write_text(out / "results.md", markdown(results))
    write_text(out / "results.json", results.to_json())


def prompt_words(items: Sequence[Item], hearing: Hearing, name: str = "prompts") -> list[int | None]:
    """How many of its text's first words each prompt holds: where they are timed; else as the recogniser hears it.

    None where nobody hears it, or none of what is heard is the text's: the prompt may end anywhere then.
    """
    if all(item.heard >= 0 for item in items):
        return [item.heard for item in items]
    if hearing.panel.asr is None:
        return [item.heard if item.heard >= 0 else None for item in items]
    heard = hearing.texts(name, [item.prompt for item in items])
    return [
        item.heard if item.heard >= 0 else fit_text(text, item.text)[2] or None
        for item, text in zip(items, heard, strict=True)
    ]


def unknown_ends(panel: Panel, heard: Sequence[int | None]) -> str:
    """What the table says of prompts whose words prompt_words could not tell from the rest's."""
    lost = sum(each is None for each in heard)
    if not lost:
        return ""
    if panel.asr is None:
        return "Where the prompt's words end is not known: --asr finds them, or word_ends in the manifest."
    told = f"In {lost} of {len(heard)} prompts the recogniser hears none of the text's words: where they end is not"
    return f"{told} known, and errors are not counted there."


def write_items(path: Path, rows: Mapping[str, tuple[Sequence[Item], Row]]) -> None:
    """One line for each item of each row and decoding seed. rows: name → (items, what was measured of them)."""
    lines = []
    for name, (items, measured) in rows.items():
        for item, each in zip(items, measured, strict=True):
            for seed, one in enumerate(each):
                said = {"id": item.id, "row": name, "seed": seed, "speaker": item.speaker, "text": item.text}
                lines.append(json.dumps(plain(said | one.record()), ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _note(panel: Panel, heard: Sequence[int | None]) -> str:
    """What the table could not measure, and why."""
    lacking = {
        "a recogniser (--asr)": panel.asr is None,
        "a language model (--lm)": panel.lm is None,
        "a speaker encoder (--speaker)": panel.speaker is None,
        "a judge of quality (--dnsmos)": panel.mos is None,
    }
    missing = [name for name, absent in lacking.items() if absent]
    told = "Texts are compared in lower case, without accents and punctuation, and read in lower case. "
    told += "Utterances with more behind the prompt than the model has time to say are left out (left_out). "
    told += f"Not asked: {', '.join(missing)}. " if missing else ""
    return (told + unknown_ends(panel, heard)).strip()
