"""Answers to questions judged: which texts count as an answer, by which scorers; tables, items and their page."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.audio.spectrograms import log_mels
from spectron.config import FeatureConfig
from spectron.evaluation.report.page import Cell, Item
from spectron.evaluation.scores.alignment import fit_text
from spectron.evaluation.scores.intervals import Figure, proportion
from spectron.evaluation.scores.tables import Results, Table, markdown
from spectron.evaluation.scores.text_scores import DEFINITIONS, SCORERS, SHORT_NOTE, is_short
from spectron.evaluation.suites.answers import checksum, judge_items
from spectron.evaluation.suites.panel import facts_of
from spectron.evaluation.suites.questions import Question, QuestionSet
from spectron.types import UserError
from spectron.utils.files import write_text

PROMPT = "Question: {question}\nAnswer:"  # ours: what a text LM continues; its first line is the answer
MAX_TOKENS = 32  # ours: room for the longest alias of a name, not for an essay
CHUNK = 32  # ours: prompts a text LM is given at once
SHORT, LONG = "short answers", "other answers"  # as `spectron score qa` calls them


@dataclasses.dataclass(frozen=True)
class Asked:
    """One question and what was answered to it: system → a text per decoding seed (one where nothing is drawn)."""

    set_name: str
    question: Question
    said: Mapping[str, Sequence[str]]

    @property
    def short(self) -> bool:
        """Whether a right answer has at most two characters."""
        return is_short(self.question.answers)

    def verdicts(self, system: str, scorer: str) -> list[bool]:
        """Right or wrong, per decoding seed."""
        return [SCORERS[scorer](self.question.answers, text) for text in self.said[system]]


def behind(question: str, transcript: str) -> tuple[str, int, int]:
    """(the words behind the question's, errors in the question's, how many it has) of one text stream.

    A text stream writes the question down and goes on with the answer, with nothing between. Its first words are the
    question's as far as they fit best, case and punctuation aside.
    """
    errors, asked, end = fit_text(question, transcript)
    return " ".join(transcript.split()[end:]), errors, asked


def check_prompt(template: str) -> None:
    """Raise UserError where a text LM would not be told the question."""
    if template.count("{question}") != 1:
        raise UserError(f"--prompt {template!r} must hold {{question}} once; write for example {PROMPT!r}.")


def check_names(sets: Sequence[QuestionSet]) -> None:
    """Raise UserError where two sets would share a table."""
    names = [each.name for each in sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two question sets are called {name!r}; name them: --questions NAME=PATH.")


def judge_facts(role: str, judge: Any) -> dict[str, Any]:
    """What results say of a judge; the role is the suite's, since one kind of judge can have several."""
    return {**facts_of(judge), "role": role}


def complete(lm: Any, questions: Sequence[str], template: str, max_tokens: int, folder: Path, what: str) -> list[str]:
    """A text LM's answers: the first line it writes behind each prompt; kept in `folder`."""
    prompts = [template.replace("{question}", question) for question in questions]
    plan = {"judge": judge_facts("lm", lm), "max_tokens": max_tokens, "prompts": checksum(p.encode() for p in prompts)}

    def work(numbers: range) -> list[str]:
        return [first_line(text) for text in lm.complete([prompts[i] for i in numbers], max_tokens)]

    return judge_items(folder, plan, len(prompts), CHUNK, work, what)


def first_line(text: str) -> str:
    """Up to the first line break that has words before it."""
    return " ".join(next((line for line in text.splitlines() if line.strip()), "").split())


# Tables.


def subsets(asked: Sequence[Asked]) -> dict[str, list[Asked]]:
    """All of a set and, where it has some with answers of at most two characters, those and the others apart."""
    parts = {"": list(asked), LONG: [a for a in asked if not a.short], SHORT: [a for a in asked if a.short]}
    return parts if parts[SHORT] else {"": parts[""]}


def table(asked: Sequence[Asked], systems: Mapping[str, str]) -> Table:
    """Systems by scorers, rows for every set and each of its subsets. systems: name → what is judged.

    Title and columns are those of `spectron score qa`, so that rows of both stand in one table.
    """
    rows: dict[str, dict[str, Figure]] = {}
    for name in dict.fromkeys(a.set_name for a in asked):
        for subset, chosen in subsets([a for a in asked if a.set_name == name]).items():
            rows |= {", ".join(filter(None, (name, system, subset))): _scores(chosen, system) for system in systems}
    meaning = (f"- {system}: {text}" for system, text in systems.items())
    return Table("Answers", rows, "\n".join([SHORT_NOTE, *meaning]))


def _scores(rows: Sequence[Asked], system: str) -> dict[str, Figure]:
    return {
        scorer: proportion(f"{system}, {scorer}", [a.verdicts(system, scorer) for a in rows], DEFINITIONS[scorer])
        for scorer in SCORERS
    }


def data_facts(sets: Sequence[QuestionSet], spoken: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """What results say of the questions. spoken: how those without a recording are spoken, None where none is heard."""
    facts = []
    for each in sets:
        entry = {"name": each.name, "items": len(each.questions), "checksum": each.checksum}
        without = sum(q.audio is None for q in each.questions)
        if spoken is not None:
            entry |= {"synthesised": without, **(spoken if without else {})}
        facts.append(entry)
    return facts


# Files.


def write(
    out: Path,
    results: Results,
    asked: Sequence[Asked],
    more: Sequence[Mapping[str, Any]],
    report: Callable[[Path], None],
) -> None:
    """OUT/items.jsonl, results.md, report.html and, last, results.json. more: further facts of each question."""
    lines = (json.dumps(record(a) | dict(facts), ensure_ascii=False) for a, facts in zip(asked, more, strict=True))
    write_text(out / "items.jsonl", "\n".join(lines) + "\n")
    write_text(out / "results.md", markdown(results))
    report(out / "report.html")
    write_text(out / "results.json", results.to_json())


def record(asked: Asked) -> dict[str, Any]:
    """A question's line in items.jsonl: every text with every scorer's verdict, per decoding seed."""
    said = {
        system: [
            {"text": text, **{name: scorer(asked.question.answers, text) for name, scorer in SCORERS.items()}}
            for text in texts
        ]
        for system, texts in asked.said.items()
    }
    q = asked.question
    return {"set": asked.set_name, "id": q.id, "question": q.question, "answers": q.answers, "said": said}


def cells(asked: Asked, systems: Iterable[str]) -> dict[str, Cell]:
    """The columns of a question's row: the first decoding seed's texts with their verdicts."""
    answers = "; ".join(asked.question.answers[:5]) + (" …" if len(asked.question.answers) > 5 else "")
    made = {"Question": Cell(asked.question.question, small=f"right: {answers}")}
    for system in systems:
        marks = {scorer: asked.verdicts(system, scorer)[0] for scorer in SCORERS}
        made[system[:1].upper() + system[1:]] = Cell(asked.said[system][0], marks=marks, value=sum(marks.values()))
    return made


def groups(asked: Asked) -> list[str]:
    """What a question's row can be filtered by."""
    return [asked.set_name, *([SHORT] if asked.short else [])]


def spoken_item(
    asked: Asked,
    shown: Mapping[str, Cell],
    right: bool,
    sounds: Sequence[tuple[str, Int[np.ndarray, " S"]]],
    features: FeatureConfig,
) -> Item:
    """A question's row with players and a spectrogram of question and answer."""
    mels = log_mels([samples for _, samples in sounds], features)
    picture = [("question | answer", mels[0], mels[1])] if len(mels[0]) else []
    q = asked.question
    return Item(q.id, shown, sounds, picture, right, groups(asked), q.question, asked.set_name)


def written_item(asked: Asked, shown: Mapping[str, Cell], right: bool, also: Sequence[str] = ()) -> Item:
    """A question's row without a sound. also: more that it can be filtered by."""
    q = asked.question
    return Item(q.id, shown, (), (), right, [*groups(asked), *also], q.question, asked.set_name)
