"""`spectron evaluate spoken-qa`: questions heard, answers written and spoken, both judged, beside a cascade."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.evaluation.judges.outside import RATE, checkpoint_facts
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.scores.alignment import distance
from spectron.evaluation.scores.intervals import average, proportion
from spectron.evaluation.scores.tables import Results, Table
from spectron.evaluation.scores.text_scores import SCORERS, plain_words
from spectron.evaluation.suites import qa
from spectron.evaluation.suites.answers import Said, answer_items
from spectron.evaluation.suites.panel import Hearing, Panel
from spectron.evaluation.suites.qa import Asked
from spectron.evaluation.suites.questions import VOICE, QuestionSet, recordings, synthesis_facts
from spectron.evaluation.suites.utterances import configured, with_room
from spectron.inference.api import Spectron
from spectron.types import UserError

TEXT, BEHIND, SPEECH = "text stream", "text behind the question", "speech"
CASCADE, WRITTEN, REPEAT = "cascade", "text LM", "question repeated"
HEARD = 16  # ours: recordings a recogniser is given at once
MEANING = {
    TEXT: "the whole transcript the model writes, question and answer, so that words of the question count too.",
    BEHIND: "what that transcript says behind its first words that fit the question's best.",
    SPEECH: "what the recogniser hears in the generated speech, which holds the answer alone.",
    CASCADE: "the recogniser's transcript of the question, answered by the text LM.",
    WRITTEN: "the text LM, given the question's own text.",
    REPEAT: "the question's own text judged as an answer: what any system gets that writes the question down.",
}
INTRO = (
    "Every question is heard once per decoding seed; the model writes question and answer as one text and speaks the "
    "answer. Rows show the first seed. A row is right where the tokens of a right answer are contained in the speech "
    "as the recogniser hears it, or, without a recogniser, in the text behind the question."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a checkpoint is asked. prompt: what the text LM continues; overrides: "key=value" for the experiment."""

    seeds: int = 1  # ours: the text is decoded greedily, only the speech differs between seeds
    batch_size: int = 8
    voice: str = VOICE
    prompt: str = qa.PROMPT
    max_tokens: int = qa.MAX_TOKENS
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Exam:
    """All that was heard, said and judged. prompts, said[seed], question_heard: in the questions' order."""

    asked: Sequence[Asked]
    prompts: Sequence[Int[np.ndarray, " S"]]
    said: Sequence[Sequence[Said]]
    question_heard: Sequence[str]  # () without a recogniser
    systems: Mapping[str, str]
    generator: Spectron
    trained_seconds: float  # the longest prompt in training

    def main(self) -> str:
        """The system a row of the page is called right or wrong by."""
        return SPEECH if SPEECH in self.systems else BEHIND

    def seconds(self, i: int) -> list[float]:
        """Of the answers to question i."""
        return [len(said[i].samples) / self.generator.features.sample_rate for said in self.said]


def evaluate_spoken_qa(
    checkpoint: str | Path,
    sets: Sequence[QuestionSet],
    out: str | Path,
    asr: Any = None,
    lm: Any = None,
    settings: Settings | None = None,
) -> Results:
    """Ask a checkpoint; writes results.json, results.md, items.jsonl and report.html in OUT.

    asr: a types.Recogniser that hears the answers. lm: complete(prompts, max_tokens) → texts, for the cascade, which
    needs both. Work that was done stays done in OUT/work. Raises UserError.
    """
    settings = settings or Settings()
    page.check()
    qa.check_prompt(settings.prompt)
    if lm is not None and asr is None:
        raise UserError("--cascade-lm answers what a recogniser heard: give --asr too.")
    qa.check_names(sets)
    panel = Panel(asr=asr)  # hears the right rate, or says so now
    which, out = checkpoint_facts(checkpoint), Path(out)
    exam = _hold(which, sets, out / "work", panel, lm, settings)
    results = Results(
        "spoken-qa",
        [qa.table(exam.asked, exam.systems), *_beside(exam, sets)],
        {
            **which,
            "experiment": exam.generator.experiment.name,
            **_facts(settings, lm is not None),
            "longest_prompt_seconds": round(exam.generator.experiment.data.max_prompt_seconds, 3),
            "longest_prompt_seconds_in_training": exam.trained_seconds,
        },
        [
            qa.judge_facts(role, judge)
            for role, judge in (("speech recogniser", asr), ("cascade lm", lm))
            if judge is not None
        ],
        qa.data_facts(sets, synthesis_facts(settings.voice)),
    )
    more = [_sound_facts(exam, i) for i in range(len(exam.asked))]
    qa.write(out, results, exam.asked, more, lambda path: _report(path, results, exam))
    return results


def _facts(settings: Settings, asks_lm: bool) -> dict[str, Any]:
    facts = dataclasses.asdict(settings)
    del facts["voice"]  # the data's
    return facts if asks_lm else {k: v for k, v in facts.items() if k not in ("prompt", "max_tokens")}


def _hold(
    which: Mapping[str, str], sets: Sequence[QuestionSet], work: Path, panel: Panel, lm: Any, settings: Settings
) -> Exam:
    """Everything that takes long, each piece kept in `work`."""
    generator = Spectron.from_checkpoint(which["checkpoint"])
    trained = generator.experiment.data.max_prompt_seconds
    generator = configured(generator, settings.overrides)
    experiment = generator.experiment
    questions = [(each.name, q) for each in sets for q in each.questions]
    prompts = recordings([q for _, q in questions], experiment.features.sample_rate, settings.voice)
    generator = with_room(generator, prompts)
    plan = {**which, "overrides": settings.overrides, "prompt_size": generator.prompt_size}
    said = [
        answer_items(
            generator,
            prompts,
            work / f"answers-{seed}",
            plan,
            seed,
            settings.batch_size,
            what=f"answering, seed {seed}",
        )
        for seed in range(settings.seeds)
    ]
    texts = [q.question for _, q in questions]
    written = [[answers[i].transcript for answers in said] for i in range(len(texts))]
    spoken: dict[str, list[list[str]]] = {TEXT: written}
    spoken[BEHIND] = [[qa.behind(text, each)[0] for each in row] for text, row in zip(texts, written, strict=True)]
    heard: list[str] = []
    if panel.asr is not None:
        rate, hearing = experiment.features.sample_rate, Hearing(panel, work, HEARD)
        by_seed = [
            hearing.texts(f"answers-{seed}", _at_rate([a.samples for a in answers], rate))
            for seed, answers in enumerate(said)
        ]
        spoken[SPEECH] = [list(row) for row in zip(*by_seed, strict=True)]
        heard = hearing.texts("questions", _at_rate(prompts, rate))
    if lm is not None:
        for system, given in ((CASCADE, heard), (WRITTEN, texts)):
            found = qa.complete(
                lm, given, settings.prompt, settings.max_tokens, work / system.replace(" ", "-"), system
            )
            spoken[system] = [[text] for text in found]
    spoken[REPEAT] = [[text] for text in texts]
    asked = [Asked(name, q, {k: v[i] for k, v in spoken.items()}) for i, (name, q) in enumerate(questions)]
    systems = {system: MEANING[system] for system in spoken}
    return Exam(asked, prompts, said, heard, systems, generator, trained)


def _at_rate(samples: Sequence[Int[np.ndarray, " S"]], rate: int) -> list[Int[np.ndarray, " S"]]:
    """What recognisers are given, int16 at 16 kHz."""
    if rate == RATE:
        return list(samples)
    from spectron.audio import wav
    from spectron.audio.signal import to_int16

    def convert(each: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
        values: Float[np.ndarray, " S"] = each.astype(np.float32) / 32768
        return to_int16(wav.resample(values, rate, RATE)) if len(each) else each

    return [convert(each) for each in samples]


# What else is known of the answers.


def _beside(exam: Exam, sets: Sequence[QuestionSet]) -> list[Table]:
    """Per set: stops, lengths, and how well the question was understood."""
    rows = {}
    for each in sets:
        chosen = [i for i, a in enumerate(exam.asked) if a.set_name == each.name]
        rows[each.name] = _row_beside(exam, chosen)
    return [Table("Beside the answers", rows)]


def _row_beside(exam: Exam, chosen: Sequence[int]) -> dict[str, Any]:
    stops = [[said[i].stopped for said in exam.said] for i in chosen]
    seconds = [float(np.mean(exam.seconds(i))) for i in chosen]
    fits = [[qa.behind(exam.asked[i].question.question, text)[1:] for text in exam.asked[i].said[TEXT]] for i in chosen]
    row = {
        "stopped": proportion("Stopped", stops, "The stop head ended the answer before the maximum length."),
        "seconds": average("Seconds", seconds, "Length of the spoken answer.", "s"),
        "question errors": average(
            "Question errors",
            [float(np.mean([errors for errors, _ in each])) for each in fits],
            "Word errors of the question's words in the text stream, at its first words that fit them best, over the "
            "question's words.",
            "%",
            [float(each[0][1]) for each in fits],
        ),
    }
    if exam.question_heard:
        pairs = [(exam.asked[i].question.question, exam.question_heard[i]) for i in chosen]
        row["recogniser's errors"] = average(
            "Recogniser's errors",
            [float(distance(plain_words(text), plain_words(heard))) for text, heard in pairs],
            "Word errors of the recogniser on the recording of the question, over the question's words: what it can be "
            "trusted with.",
            "%",
            [float(len(plain_words(text))) for text, _ in pairs],
        )
    return row


def _sound_facts(exam: Exam, i: int) -> dict[str, Any]:
    """What items.jsonl says of the sounds of question i."""
    facts: dict[str, Any] = {
        "question_seconds": round(len(exam.prompts[i]) / exam.generator.features.sample_rate, 3),
        "synthesised": exam.asked[i].question.audio is None,
        "seconds": [round(each, 3) for each in exam.seconds(i)],
        "stopped": [said[i].stopped for said in exam.said],
    }
    return facts | ({"question_heard": exam.question_heard[i]} if exam.question_heard else {})


def _report(path: Path, results: Results, exam: Exam) -> None:
    shown = [system for system in exam.systems if system != REPEAT]
    items = []
    for i, asked in enumerate(exam.asked):
        right = asked.verdicts(exam.main(), "contains")[0]
        cells = qa.cells(asked, shown)
        said = exam.said[0][i]
        cells["Ended by"] = Cell("stop head" if said.stopped else "maximum length", said.stopped, brief=True)
        length = exam.seconds(i)[0]
        cells["Seconds"] = Cell(f"{length:.2f}", value=length, brief=True)
        sounds = (("question", exam.prompts[i]), ("answer", said.samples))
        items.append(qa.spoken_item(asked, cells, right, sounds, exam.generator.features))
    intro = [INTRO, f"Scorers: {', '.join(SCORERS)}; what each accepts is said below the first table."]
    page.write(path, results, items, intro, exam.generator.features, "Question id")
