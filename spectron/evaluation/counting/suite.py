"""`spectron evaluate counting`: every test item of the counting world, answered, heard and measured."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from spectron.audio import wav
from spectron.audio.spectrograms import distance, log_mels
from spectron.data.counting.utterances import TEST_REPEATS, WORDS, is_held_out, test_clips
from spectron.evaluation.counting.judges import check_judges_folder, get_judges
from spectron.evaluation.counting.world import pick_items
from spectron.evaluation.metrics import wer
from spectron.evaluation.metrics.intervals import average, known, proportion, seed_average
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Figure, Results, Table
from spectron.evaluation.suite import Record, Suite, check_output, number_cell, run_suite, stop_cell
from spectron.evaluation.suites.generation import STOPS, Generated, generate_all, load_generator, plan_of
from spectron.evaluation.suites.judge_runner import Judges
from spectron.evaluation.suites.utterances import cut, data_facts
from spectron.inference.api import Spectron
from spectron.types import Example, UserError
from spectron.utils.files import check_out
from spectron.utils.spacing import evenly_spaced
from spectron.vocoders.copy_synthesis import copy_synthesis

SEEDS = 3
ROW = "Spectron"
MAX_SHOWN = 24  # ours: enough to judge by ear
_CHUNK = 48  # ours: items that share a decoding seed, each a row of it

TEXT = "The words after the transcript's third are exactly the three that continue the prompt, and no more."
HEARD = "The digit judge hears exactly the three continuing digits, in order, in the generated audio."
VOICE = "The speaker judge finds the generated audio nearest to the prompt's speaker among all speakers."
SHARES = {  # column → (the record's verdict, definition)
    "text right": ("text_right", TEXT),
    "heard right": ("heard_right", HEARD),
    "right speaker": ("voice_right", VOICE),
    "stops by itself": ("stopped", STOPS),
}
SOUND = {  # column → (definition, unit, value of a record)
    "log-mel distance": (
        "Mean absolute difference of generated and real log-mel along the best alignment in time.",
        "nats",
        lambda r: r["mel_distance"],
    ),
    "duration ratio": (
        "Seconds of the generated over seconds of the real continuation, mean over items.",
        "×",
        lambda r: r["seconds"] / r["real_seconds"],
    ),
    "level": ("Root mean square of the generated audio.", "dBFS", lambda r: r["level_db"]),
    "clipped samples": ("Share of generated samples at full scale.", "%", lambda r: r["clipped"]),
}


def evaluate_counting(
    checkpoint: str | Path,
    out: str | Path,
    judges_dir: str | Path | None = None,
    seeds: int = SEEDS,
    repeats: int = TEST_REPEATS,
    batch_size: int = 8,
    overrides: Sequence[str] = (),
    limit: int = 0,
    prompts: str | Path | None = None,
) -> Results:
    """Evaluate a checkpoint; results and report.html in OUT. Resumes if interrupted.

    judges_dir: where the judges are kept (OUT/judges). repeats: takes of each sequence by each speaker. overrides:
    "key=value" for the checkpoint's experiment, such as data.root. limit: at most N items, evenly spread (0: all).
    prompts: a folder for three of the prompts, see write_prompts. Raises UserError.
    """
    if repeats < 1:
        raise UserError("--repeats must be at least 1.")
    check_output(out)
    check_judges_folder(judges_dir)
    if prompts:
        check_out(prompts, "--write-prompts")
    generator, facts = load_generator(checkpoint, overrides, seeds, batch_size, limit)
    items = pick_items(generator.experiment, repeats, limit)
    if prompts:
        write_prompts(items, prompts, generator.features.sample_rate)
    judges = get_judges(generator.experiment, judges_dir or Path(out) / "judges")
    suite = CountingSuite(
        facts=facts | {"repeats": repeats, "items": len(items)},
        judges=judges.facts(),
        data=[data_facts("counting", [cut(item, item.prompt_samples) for item in items])],
        features=generator.experiment.features,
        generator=generator,
        items=items,
        panel=judges,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class CountingSuite(Suite):
    """A speaker counts three digits; the model writes all six and speaks the other three."""

    name = "counting"
    item_name = "Digits"
    max_players = MAX_SHOWN
    title = "Counting on, in the same voice"
    main_figures = (
        "text right, seen",
        "text right, held-out",
        "heard right, seen",
        "heard right, held-out",
        "right speaker",
    )
    intro = (
        "A voice counts three digits in a recording that the model has never heard; the model writes all six and then "
        "speaks the other three in that voice. Held-out sequences occurred in training as text, never as speech.\n"
        "Wrong answers are shown more often than they occur; the line in a picture is where the prompt ends."
    )

    generator: Spectron
    items: Sequence[Example]
    panel: Judges
    answers: list[list[Generated]] = dataclasses.field(default_factory=list)  # [seed][item]

    @property
    def seeds(self) -> int:
        """Decoding seeds of every item."""
        return int(self.facts["decoding_seeds"])

    def measure(self, work: Path) -> list[Record]:
        """A record for every item and decoding seed."""
        self.answers = [self._generate(work, seed) for seed in range(self.seeds)]
        real = log_mels([continuation(item) for item in self.items], self.features)
        rows: list[list[Record]] = [[] for _ in self.items]
        for seed, answers in enumerate(self.answers):
            heard = self.panel.asr.hear([a.samples for a in answers])
            voices = self.panel.speaker.name([a.samples for a in answers])
            for i, item in enumerate(self.items):
                mel_distance = distance(answers[i].frames, real[i])
                record = verdict(item, answers[i], heard[i], voices[i], self.features.sample_rate)
                rows[i].append({"seed": seed, **record, "mel_distance": mel_distance})
        return [record for row in rows for record in row]

    def _generate(self, work: Path, seed: int) -> list[Generated]:
        prompts = [item.samples[: item.prompt_samples] for item in self.items]
        plan, size = plan_of(self.generator, self.facts), self.facts["batch_size"]
        answers: list[Generated] = []
        for start in range(0, len(prompts), _CHUNK):
            chunk = prompts[start : start + _CHUNK]
            folder, draws = work / f"answers-{seed}-{start:05d}", seed * 100_003 + start
            label = f"decoding, seed {seed}, {start + len(chunk)} of {len(prompts)}"
            answers += generate_all(self.generator, chunk, folder, plan, draws, size, label=label, frames=True)
        return answers

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """The model, its sound, its speakers, and how far the judges can be trusted."""
        rows = [records[i : i + self.seeds] for i in range(0, len(records), self.seeds)]
        return [*counting_tables(rows), self._judge_table()]

    def _judge_table(self) -> Table:
        """The judges on real test clips, real continuations, and those after copy synthesis."""
        clips = test_clips(self.generator.experiment.data, self.features)
        real = [continuation(item) for item in self.items]
        sets = {
            "real test clips": ([clip.samples for clip in clips], clips, 1),
            "real continuations": (real, self.items, 3),
            "copy-synthesised continuations": (copy_synthesis(real, self.features), self.items, 3),
        }
        digits, voice = "Exactly the digits spoken are heard.", "The right speaker is named."
        rows = {}
        for name, (recordings, examples, count) in sets.items():
            expected = [[WORDS.index(word) for word in e.text.split()[-count:]] for e in examples]
            heard = self.panel.asr.hear(recordings)
            voices = self.panel.speaker.name(recordings)
            right = [[a == b] for a, b in zip(heard, expected, strict=True)]
            right_voice = [[a == e.speaker] for a, e in zip(voices, examples, strict=True)]
            rows[name] = {
                "digits heard": proportion("digits heard", right, digits),
                "right speaker": proportion("right speaker", right_voice, voice),
            }
        note = "Copy synthesis: after log-mel and Griffin-Lim, the most that generated audio can reach."
        return Table("The judges on real speech", rows, note)

    def shown(self, records: Sequence[Record]) -> list[int]:
        """The first seed's answers: up to half wrong ones, the rest right, held-out and seen, evenly spaced."""
        return choose(records, range(0, len(records), self.seeds))

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """The prompt, what was generated and what was really said."""
        item, answer = self.items[i // self.seeds], self.answers[record["seed"]][i // self.seeds]
        prompt, real = item.samples[: item.prompt_samples], continuation(item)
        mels = log_mels([prompt, real], self.features)
        group = "held-out" if record["held_out"] else "seen"
        return page.Item(
            name=f"{record['asked']} → {record['expected']}",
            cells={
                "Speaker": Cell(record["speaker"], brief=True),
                "Sequence": Cell(group, brief=True),
                "Transcript": Cell(answer.transcript, record["text_right"]),
                "Heard": Cell(record["heard"], record["heard_right"], brief=True),
                "Voice": Cell(record["voice"], record["voice_right"], brief=True),
                "Ended by": stop_cell(answer.stopped),
                "Seconds": number_cell(record["seconds"], small=f"real {record['real_seconds']:.2f}"),
            },
            sounds=(("prompt", prompt), ("generated", answer.samples), ("real", real)),
            mels=(("generated", mels[0], answer.frames), ("real", mels[0], mels[1])),
            right=record["right"],
            groups=(f"{group} sequences",),
            description=f"{record['speaker']}: {record['asked']}, then {record['expected']}",
        )


def write_prompts(items: Sequence[Example], folder: str | Path, sample_rate: int) -> None:
    """Write the prompts of three items as FOLDER/SPEAKER-THREE-DIGITS.wav: two seen sequences and a held-out one.

    Every one is of another speaker, if there are as many.
    """
    chosen: list[Example] = []
    for held_out in (False, True, False):
        spoken = {item.speaker for item in chosen}
        fitting = [item for item in items if is_held_out([WORDS.index(w) for w in item.text.split()]) == held_out]
        chosen += [item for item in fitting if item.speaker not in spoken][:1] or fitting[:1]
    for item in chosen:
        name = "-".join([item.speaker, *item.text.split()[:3]])
        wav.write(Path(folder) / f"{name}.wav", item.samples[: item.prompt_samples], sample_rate)


def continuation(item: Example) -> Int[np.ndarray, " S"]:
    """int16 [S]: what was really said after the prompt."""
    return item.samples[item.prompt_samples :]


def verdict(item: Example, answer: Generated, heard: Sequence[int], voice: str, sample_rate: int) -> Record:
    """One answer compared with what was really said. Digits are written as a string: "147"."""
    words = item.text.split()
    digits = [WORDS.index(word) for word in words]
    expected = "".join(map(str, digits[3:]))
    spelled = "".join(map(str, heard))
    level, clipped = loudness(answer.samples)
    record = {
        "item": item.id,
        "speaker": item.speaker,
        "held_out": is_held_out(digits),
        "asked": "".join(map(str, digits[:3])),
        "expected": expected,
        "transcript": answer.transcript,
        "word_errors": wer.word_errors(item.text, answer.transcript, str.split)[0],
        "words": len(words),
        "text_right": answer.transcript.split()[3:] == words[3:],
        "heard": spelled,
        "heard_right": spelled == expected,
        "voice": voice,
        "voice_right": voice == item.speaker,
        "stopped": answer.stopped,
        "seconds": round(len(answer.samples) / sample_rate, 4),
        "real_seconds": round(len(continuation(item)) / sample_rate, 4),
        "level_db": level,
        "clipped": clipped,
    }
    return record | {"right": all(record[verdict] for verdict, _ in SHARES.values())}


def loudness(samples: Int[np.ndarray, " S"]) -> tuple[float, float]:
    """(root mean square in dB of full scale, share of samples at full scale); (nan, 0) for nothing."""
    if not len(samples):
        return math.nan, 0.0
    x = samples.astype(np.float64) / 32768
    level = 10 * math.log10(max(float(np.mean(x**2)), 1e-12))
    return round(level, 2), float(np.mean(np.abs(samples.astype(np.int32)) >= 32767))


def counting_tables(rows: Sequence[Sequence[Record]]) -> list[Table]:
    """records[item][seed] → the model's figures, its sound, and its speakers."""
    parts = {
        "seen": [row for row in rows if not row[0]["held_out"]],
        "held-out": [row for row in rows if row[0]["held_out"]],
    }
    errors, words = ([sum(r[key] for r in row) for row in rows] for key in ("word_errors", "words"))
    figures = {"transcript WER": average("transcript WER", errors, f"{wer.RATE} Of all six words.", "%", words)}
    for column in ("text right", "heard right"):
        for name, part in parts.items():
            figures[f"{column}, {name}"] = _share(column, part, f"{column}, {name}")
    figures |= {column: _share(column, rows) for column in ("right speaker", "stops by itself")}
    sound = {
        column: seed_average(column, known([[value(r) for r in row] for row in rows]), definition, unit)
        for column, (definition, unit, value) in SOUND.items()
    }
    speakers = sorted({row[0]["speaker"] for row in rows})
    by_speaker = {
        name: {column: _share(column, [row for row in rows if row[0]["speaker"] == name]) for column in SHARES}
        for name in speakers
    }
    return [
        Table("Counting", {ROW: figures}, f"The right speaker by chance: {100 / len(speakers):.0f} %."),
        Table("Sound of the answers", {ROW: sound}),
        Table("Speakers", by_speaker),
    ]


def _share(column: str, rows: Sequence[Sequence[Record]], label: str = "") -> Figure:
    key, definition = SHARES[column]
    return proportion(label or column, [[r[key] for r in row] for row in rows], definition)


def choose(records: Sequence[Record], indices: Sequence[int], most: int = MAX_SHOWN) -> list[int]:
    """At most `most` of the records: up to half wrong ones, the rest right, held-out and seen, evenly spaced."""
    wrong = [i for i in indices if not records[i]["right"]]
    right = [[i for i in indices if records[i]["right"] and records[i]["held_out"] == held] for held in (True, False)]
    chosen = evenly_spaced(wrong, max(most // 2, most - sum(map(len, right))))
    chosen += evenly_spaced(right[0], max((most - len(chosen)) // 2, most - len(chosen) - len(right[1])))
    chosen += evenly_spaced(right[1], most - len(chosen))
    return sorted(chosen)
