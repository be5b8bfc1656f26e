"""`spectron evaluate counting`: every test item of the counting world, answered, heard and measured."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.audio.spectrograms import distance, log_mels
from spectron.config import Experiment
from spectron.data.counting.utterances import TEST_REPEATS, WORDS, is_held_out, test_clips
from spectron.evaluation.judges.digit_judges import Judges
from spectron.evaluation.scores.intervals import Figure, average, proportion
from spectron.evaluation.scores.tables import plain
from spectron.evaluation.suites.answers import Said, answer_items
from spectron.evaluation.suites.continuation import WORK, load
from spectron.evaluation.suites.digit_panel import digit_panel, pick_items
from spectron.evaluation.suites.utterances import cut, data_facts, plan_of
from spectron.inference.api import Spectron
from spectron.types import Example, UserError
from spectron.utils.files import check_out, write_text
from spectron.vocoders.copy_synthesis import copy_synthesis

log = logging.getLogger(__name__)

SEEDS = 3  # the issue's: mean of three decoding seeds
_CHUNK = 48  # ours: items that share a seed, each a row of it


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One answer, judged. Digits are written as a string: "147"."""

    item: str
    speaker: str
    seed: int
    held_out: bool
    asked: str  # the prompt's digits
    expected: str  # the continuation's digits
    transcript: str
    word_errors: int
    words: int
    text_right: bool
    heard: str
    heard_right: bool
    voice: str
    voice_right: bool
    stopped: bool
    seconds: float
    real_seconds: float
    level_db: float
    clipped: float
    mel_distance: float

    @property
    def right(self) -> bool:
        """All of it: text, digits heard, voice, and it stopped."""
        return self.text_right and self.heard_right and self.voice_right and self.stopped


def evaluate_counting(
    checkpoint: str | Path,
    out: str | Path,
    judges_dir: str | Path | None = None,
    seeds: int = SEEDS,
    repeats: int = TEST_REPEATS,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
    limit: int = 0,
) -> dict[str, Any]:
    """Evaluate a checkpoint; returns what OUT/results.json holds, beside results.md, items.jsonl and report.html.

    judges_dir: where the judges are kept (OUT/judges). repeats: takes of each sequence by each speaker. overrides:
    "key=value" for the checkpoint's experiment, such as data.root. limit: only so many items, evenly spread (0: all).
    Killed and called again, it goes on. Raises UserError.
    """
    from spectron.evaluation.suites import counting_page

    if repeats < 1:
        raise UserError("--repeats must be at least 1.")
    check_folders(out, judges_dir)
    generator, facts = load(checkpoint, overrides, seeds, batch_size, limit)
    experiment, out = generator.experiment, Path(out)
    items = pick_items(experiment, repeats, limit)
    panel = digit_panel(experiment, judges_dir or out / "judges")
    judges = panel.asr.judges
    began = time.monotonic()
    answers = [answer(generator, items, out, facts, seed) for seed in range(seeds)]
    log.info("Decoded %d answers in %.0f s.", seeds * len(items), time.monotonic() - began)
    verdicts = judge(items, answers, judges, experiment)
    figures = summarise(verdicts) | judge_judges(items, judges, experiment)
    results = {
        "suite": "counting",
        **facts,
        "repeats": repeats,
        "items": len(items),
        "judges": panel.facts(),
        "data": [data_facts("counting", [cut(item, item.prompt_samples) for item in items])],
        "figures": {key: dataclasses.asdict(figure) for key, figure in figures.items()},
        "speakers": by_speaker(verdicts),
    }
    lines = (json.dumps(plain(dataclasses.asdict(v) | {"right": v.right})) for row in verdicts for v in row)
    write_text(out / "items.jsonl", "\n".join(lines) + "\n")
    counting_page.write(
        out / "report.html", results, figures, items, answers[0], [row[0] for row in verdicts], experiment
    )
    write_text(out / "results.md", markdown(results) + "\n")
    write_text(out / "results.json", json.dumps(plain(results), indent=1) + "\n")
    return results


def check_folders(out: str | Path, judges_dir: str | Path | None) -> None:
    """Raise UserError where OUT, or the folder of judges yet to be trained, cannot be made or written."""
    check_out(out)
    if judges_dir and not (Path(judges_dir) / "judges.json").is_file():  # those that are there need only be read
        check_out(judges_dir, "--judges")


def answer(generator: Spectron, items: Sequence[Example], out: Path, facts: Mapping[str, Any], seed: int) -> list[Said]:
    """What the model says to every item's prompt; what was said in an earlier run is read from OUT/work."""
    prompts = [item.samples[: item.prompt_samples] for item in items]
    plan, size = plan_of(generator, facts), facts["batch_size"]
    answers: list[Said] = []
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        folder, draws = out / WORK / f"answers-{seed}-{start:05d}", seed * 100_003 + start
        what = f"decoding, seed {seed}, {start + len(chunk)} of {len(prompts)}"
        answers += answer_items(generator, chunk, folder, plan, draws, size, what=what, frames=True)
    return answers


def judge(
    items: Sequence[Example], answers: Sequence[Sequence[Said]], judges: Judges, experiment: Experiment
) -> list[list[Verdict]]:
    """answers[seed][item] → verdicts[item][seed]."""
    log.info("Judging %d answers.", sum(map(len, answers)))
    real = log_mels([continuation(item) for item in items], experiment.features)
    rows: list[list[Verdict]] = [[] for _ in items]
    for seed, said in enumerate(answers):
        heard = judges.digits.hear([a.samples for a in said])
        voices = judges.speakers.name([a.samples for a in said])
        for i, item in enumerate(items):
            apart = distance(said[i].frames, real[i])
            rows[i].append(verdict(item, said[i], heard[i], voices[i], seed, apart, experiment))
    return rows


def continuation(item: Example) -> Int[np.ndarray, " S"]:
    """int16 [S]: what was really said after the prompt."""
    return item.samples[item.prompt_samples :]


def verdict(
    item: Example, said: Said, heard: Sequence[int], voice: str, seed: int, apart: float, experiment: Experiment
) -> Verdict:
    """Compare one answer with what was really said."""
    words = item.text.split()
    digits = [WORDS.index(word) for word in words]
    expected, rate = "".join(map(str, digits[3:])), experiment.features.sample_rate
    spelled = "".join(map(str, heard))
    level, clipped = loudness(said.samples)
    return Verdict(
        item=item.id,
        speaker=item.speaker,
        seed=seed,
        held_out=is_held_out(digits),
        asked="".join(map(str, digits[:3])),
        expected=expected,
        transcript=said.transcript,
        word_errors=word_errors(item.text, said.transcript),
        words=len(words),
        text_right=said.transcript.split()[3:] == words[3:],
        heard=spelled,
        heard_right=spelled == expected,
        voice=voice,
        voice_right=voice == item.speaker,
        stopped=said.stopped,
        seconds=round(len(said.samples) / rate, 4),
        real_seconds=round(len(continuation(item)) / rate, 4),
        level_db=level,
        clipped=clipped,
        mel_distance=apart,
    )


def word_errors(reference: str, said: str) -> int:
    """Substitutions, deletions and insertions that turn `reference` into `said` (jiwer)."""
    import jiwer

    counted = jiwer.process_words(reference, said)
    return counted.substitutions + counted.deletions + counted.insertions


def loudness(samples: Int[np.ndarray, " S"]) -> tuple[float, float]:
    """(root mean square in dB of full scale, share of samples at full scale); (nan, 0) for nothing."""
    if not len(samples):
        return math.nan, 0.0
    x = samples.astype(np.float64) / 32768
    level = 10 * math.log10(max(float(np.mean(x**2)), 1e-12))
    return round(level, 2), float(np.mean(np.abs(samples.astype(np.int32)) >= 32767))


def summarise(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Figure]:
    """verdicts[item][seed] → the suite's figures."""
    seen = [row for row in verdicts if not row[0].held_out]
    held_out = [row for row in verdicts if row[0].held_out]

    def share(label: str, rows: Iterable[Sequence[Verdict]], name: str, definition: str) -> Figure:
        return proportion(label, [[getattr(v, name) for v in row] for row in rows], definition)

    text = "The words after the transcript's third are exactly the three that continue the prompt, and no more."
    heard = "The digit judge hears exactly the three continuing digits, in order, in the generated audio."
    wer = average(
        "Transcript word error rate",
        [sum(v.word_errors for v in row) for row in verdicts],
        "Substitutions, deletions and insertions against all six words, over the words (jiwer).",
        "%",
        weights=[sum(v.words for v in row) for row in verdicts],
    )
    voice = "The speaker judge finds the generated audio nearest to the prompt's speaker among all speakers."
    stops = "The stop head ended the answer before the maximum length."
    return {
        "transcript_wer": wer,
        "text_seen": share("Text continued exactly, seen", seen, "text_right", text),
        "text_held_out": share("Text continued exactly, held-out", held_out, "text_right", text),
        "heard_seen": share("Three digits heard, seen", seen, "heard_right", heard),
        "heard_held_out": share("Three digits heard, held-out", held_out, "heard_right", heard),
        "right_speaker": share("Right speaker", verdicts, "voice_right", voice),
        "stopped": share("Stops by itself", verdicts, "stopped", stops),
    } | _sound(verdicts)


def _sound(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, Figure]:
    def mean(label: str, definition: str, unit: str, of: Callable[[Verdict], float]) -> Figure:
        rows = [[x for x in map(of, row) if not math.isnan(x)] for row in verdicts]
        return average(label, [float(np.mean(row)) for row in rows if row], definition, unit)

    return {
        "mel_distance": mean(
            "Log-mel distance",
            "Mean absolute difference of generated and real log-mel along the best alignment in time.",
            "nats",
            lambda v: v.mel_distance,
        ),
        "duration_ratio": mean(
            "Duration ratio",
            "Seconds of the generated over seconds of the real continuation, mean over items.",
            "×",
            lambda v: v.seconds / v.real_seconds,
        ),
        "level": mean("Level", "Root mean square of the generated audio.", "dBFS", lambda v: v.level_db),
        "clipped": mean("Clipped samples", "Share of generated samples at full scale.", "%", lambda v: v.clipped),
    }


def judge_judges(items: Sequence[Example], judges: Judges, experiment: Experiment) -> dict[str, Figure]:
    """How far the judges can be trusted: on real test clips, real continuations, and both after copy synthesis."""
    clips = test_clips(experiment.data, experiment.features)
    real = [continuation(item) for item in items]
    sets = {
        "clips": ("real test clips", [c.samples for c in clips], clips, 1),
        "real": ("real continuations", real, items, 3),
        "copy": ("copy-synthesised continuations", copy_synthesis(real, experiment.features), items, 3),
    }
    figures = {}
    for key, (name, recordings, examples, digits) in sets.items():
        wanted = [[WORDS.index(w) for w in e.text.split()[-digits:]] for e in examples]
        right = [[heard == want] for heard, want in zip(judges.digits.hear(recordings), wanted, strict=True)]
        definition = "Exactly the digits spoken are heard" + (
            " after log-mel and Griffin-Lim: the most that generated audio can reach." if key == "copy" else "."
        )
        figures[f"judge_digits_{key}"] = proportion(f"Digit judge on {name}", right, definition)
        voices = judges.speakers.name(recordings)
        right = [[voice == e.speaker] for voice, e in zip(voices, examples, strict=True)]
        figures[f"judge_speaker_{key}"] = proportion(f"Speaker judge on {name}", right, "The right speaker is named.")
    return figures


def by_speaker(verdicts: Sequence[Sequence[Verdict]]) -> dict[str, dict[str, float]]:
    """Per speaker: answers, and the shares of exact texts, digits heard, right voices and stops."""
    groups: dict[str, list[Verdict]] = collections.defaultdict(list)
    for row in verdicts:
        groups[row[0].speaker] += row
    names = {"text": "text_right", "heard": "heard_right", "voice": "voice_right", "stopped": "stopped"}
    return {
        speaker: {"answers": len(group)} | {k: float(np.mean([getattr(v, f) for v in group])) for k, f in names.items()}
        for speaker, group in sorted(groups.items())
    }


def markdown(results: dict[str, Any]) -> str:
    """results.json's figures and speakers as two Markdown tables, definitions and judges below them."""
    figures = {key: Figure(**fields) for key, fields in results["figures"].items()}
    lines = ["| figure | value | 95 % interval | n |", "|---|---|---|---|"]
    lines += [f"| {f.label} | {f.text()} | {f.interval_text()} | {f.n} |" for f in figures.values()]
    lines += [
        "",
        "| speaker | answers | text exact | digits heard | right voice | stops |",
        "|---|---|---|---|---|---|",
    ]
    for speaker, row in results["speakers"].items():
        shares = " | ".join(f"{100 * row[k]:.1f} %" for k in ("text", "heard", "voice", "stopped"))
        lines.append(f"| {speaker} | {row['answers']} | {shares} |")
    lines += ["", *(f"- {figure.label}: {figure.definition}" for figure in figures.values()), ""]
    lines += [f"- {judge['role']}: {judge['name']}, version {judge['version']}" for judge in results["judges"]]
    return "\n".join(lines)
