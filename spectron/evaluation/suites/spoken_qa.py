"""`spectron evaluate spoken-qa`: questions heard, answers written and spoken, both judged, compared with a cascade."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.audio import wav
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.data.question_sets import VOICE, QuestionSet, recordings, synthesis_facts
from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics import wer
from spectron.evaluation.metrics.intervals import average, proportion, seed_average
from spectron.evaluation.metrics.text_scores import SCORERS
from spectron.evaluation.report import page
from spectron.evaluation.results import Figure, Results, Table
from spectron.evaluation.suite import Record, check_output, number_cell, run_suite, stop_cell
from spectron.evaluation.suites import qa
from spectron.evaluation.suites.generation import STOPS, Generated, configured, generate_all, with_room
from spectron.evaluation.suites.judge_runner import JudgeRunner, Judges
from spectron.inference.api import Spectron
from spectron.types import UserError
from spectron.utils.plain_words import plain_words

TEXT, ANSWER, SPEECH = "text stream", "text behind the question", "speech"
CASCADE, WRITTEN, REPEAT = "cascade", "text LM", "question repeated"
CHUNK = 16  # ours: recordings a recogniser is given at once
SYSTEMS = {
    TEXT: "the whole transcript the model writes, question and answer, so that words of the question count too.",
    ANSWER: "what that transcript says after its first words that fit the question's best.",
    SPEECH: "what the recogniser hears in the generated speech, which holds the answer alone.",
    CASCADE: "the recogniser's transcript of the question, answered by the text LM.",
    WRITTEN: "the text LM, given the question's own text.",
    REPEAT: "the question's own text judged as an answer: the score of any system that writes the question down.",
}


@dataclasses.dataclass(frozen=True)
class QASettings:
    """How a checkpoint is asked. prompt: what the text LM continues; overrides: "key=value" for the experiment."""

    seeds: int = 1  # ours: the text is decoded greedily, only the speech differs between seeds
    batch_size: int = 8
    voice: str = VOICE
    prompt: str = qa.PROMPT
    max_tokens: int = qa.MAX_TOKENS
    overrides: tuple[str, ...] = ()


def evaluate_spoken_qa(
    checkpoint: str | Path,
    sets: Sequence[QuestionSet],
    out: str | Path,
    asr: Any = None,
    lm: Any = None,
    settings: QASettings | None = None,
) -> Results:
    """Ask a checkpoint; results and report.html in OUT. Resumes if interrupted.

    asr: a types.Recogniser that hears the answers. lm: a judges.base.LanguageModel for the cascade, which needs both.
    Raises UserError.
    """
    settings = settings or QASettings()
    qa.check(sets, settings.prompt)
    if lm is not None and asr is None:
        raise UserError("--cascade-lm answers what a recogniser heard: give --asr too.")
    check_output(out)
    judges = Judges(asr=asr, lm=lm)
    checkpoint_id = Checkpoint.open(checkpoint).facts
    generator = Spectron.from_checkpoint(checkpoint_id["checkpoint"])
    trained = generator.experiment.data.max_prompt_seconds
    generator = configured(generator, settings.overrides)
    unused = {"voice"} | ({"prompt", "max_tokens"} if lm is None else set())  # voice: in the data's entry
    facts = {key: value for key, value in dataclasses.asdict(settings).items() if key not in unused}
    roles = {"speech recogniser": asr, "cascade lm": lm}
    suite = SpokenQASuite(
        facts={
            **checkpoint_id,
            "experiment": generator.experiment.name,
            **facts,
            "longest_prompt_seconds_in_training": trained,
        },
        judges=[qa.judge_facts(role, judge) for role, judge in roles.items() if judge is not None],
        data=qa.data_facts(sets, synthesis_facts(settings.voice)),
        features=generator.features,
        questions=[(each.name, q) for each in sets for q in each.questions],
        generator=generator,
        checkpoint=checkpoint_id,
        panel=judges,
        settings=settings,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class SpokenQASuite(qa.QASuite):
    """One record for every question, with the texts of every system."""

    name = "spoken-qa"
    intro = (
        "Every question is heard once per decoding seed; the model writes question and answer as one text and speaks "
        "the answer. Rows show the first seed. A row is right if the tokens of a right answer are contained in the "
        "speech as the recogniser hears it, or, without a recogniser, in the text after the question.\n"
        f"Scorers: {', '.join(SCORERS)}; their definitions are below the first table."
    )

    generator: Spectron
    checkpoint: Mapping[str, str]
    panel: Judges
    settings: QASettings
    prompts: list[Int[np.ndarray, " S"]] = dataclasses.field(default_factory=list)
    answers: list[list[Generated]] = dataclasses.field(default_factory=list)  # [seed][question]

    def measure(self, work: Path) -> list[Record]:
        """Answers of the model, of the cascade and of the text LM to every question."""
        settings, questions = self.settings, [q for _, q in self.questions]
        texts = [q.question for q in questions]
        self.prompts = recordings(questions, self.features.sample_rate, settings.voice)
        generator = with_room(self.generator, self.prompts)
        self.facts["longest_prompt_seconds"] = round(generator.experiment.data.max_prompt_seconds, 3)
        plan = {**self.checkpoint, "overrides": settings.overrides, "prompt_size": generator.prompt_size}
        self.answers = [
            generate_all(
                generator,
                self.prompts,
                work / f"answers-{seed}",
                plan,
                seed,
                settings.batch_size,
                label=f"answering, seed {seed}",
            )
            for seed in range(settings.seeds)
        ]
        written = [[answers[i].transcript for answers in self.answers] for i in range(len(texts))]
        said: dict[str, list[list[str]]] = {TEXT: written}
        said[ANSWER] = [
            [qa.after_question(text, each)[0] for each in row] for text, row in zip(texts, written, strict=True)
        ]
        heard: list[str] = []
        if self.panel.asr is not None:
            runner, rate = JudgeRunner(self.panel, work, CHUNK), self.features.sample_rate
            by_seed = [
                runner.texts(f"answers-{seed}", wav.resample_all([a.samples for a in answers], rate, RATE))
                for seed, answers in enumerate(self.answers)
            ]
            said[SPEECH] = [list(row) for row in zip(*by_seed, strict=True)]
            heard = runner.texts("questions", wav.resample_all(self.prompts, rate, RATE))
        if self.panel.lm is not None:
            for system, given in ((CASCADE, heard), (WRITTEN, texts)):
                folder = work / system.replace(" ", "-")
                answers = qa.complete(self.panel.lm, given, settings.prompt, settings.max_tokens, folder, system)
                said[system] = [[text] for text in answers]
        said[REPEAT] = [[text] for text in texts]
        return [
            {**qa.judged(name, q, {system: each[i] for system, each in said.items()}), **self._sound_facts(i, heard)}
            for i, (name, q) in enumerate(self.questions)
        ]

    def _sound_facts(self, i: int, heard: Sequence[str]) -> Record:
        """What items.jsonl states about the sounds of question i."""
        rate = self.features.sample_rate
        facts: Record = {
            "question_seconds": round(len(self.prompts[i]) / rate, 3),
            "synthesised": self.questions[i][1].audio is None,
            "seconds": [round(len(answers[i].samples) / rate, 3) for answers in self.answers],
            "stopped": [answers[i].stopped for answers in self.answers],
        }
        return facts | ({"question_heard": heard[i]} if heard else {})

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """Right answers; then stops, lengths, and how well the question was understood."""
        systems = {system: SYSTEMS[system] for system in records[0]["said"]}
        beside = {name: _beside(of_set) for name, of_set in qa.by_set(records).items()}
        return [qa.answer_table(records, systems), Table("Beside the answers", beside)]

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """The question, every system's answer, and both sounds."""
        systems = [system for system in record["said"] if system != REPEAT]
        right = qa.verdicts(record, SPEECH if SPEECH in systems else ANSWER, "contains")[0]
        more = {"Ended by": stop_cell(record["stopped"][0]), "Seconds": number_cell(record["seconds"][0])}
        sounds = (("question", self.prompts[i]), ("answer", self.answers[0][i].samples)) if with_media else ()
        return self.question_item(record, systems, right, more, sounds)


def _beside(records: Sequence[Record]) -> dict[str, Figure]:
    """One set's row of the second table."""
    seconds = [float(np.mean(r["seconds"])) for r in records]
    errors = [[qa.after_question(r["question"], each["text"])[1:] for each in r["said"][TEXT]] for r in records]
    written = (
        "Word errors of the question's words in the text stream, at its first words that fit them best, over the "
        "question's words."
    )
    row = {
        "stopped": proportion("Stopped", [r["stopped"] for r in records], STOPS),
        "seconds": average("Seconds", seconds, "Length of the spoken answer.", "s"),
        "question errors": seed_average("Question errors", errors, written, "%"),
    }
    if "question_heard" in records[0]:
        heard = [[wer.word_errors(r["question"], r["question_heard"], plain_words)] for r in records]
        definition = f"Word errors of the recogniser on the recording of the question. {wer.PLAIN}"
        row["recogniser's errors"] = seed_average("Recogniser's errors", heard, definition, "%")
    return row
