"""What the suites that ask questions share: answers judged by the scorers, their table, and the report's rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from spectron.audio.spectrograms import log_mels
from spectron.data.question_sets import Question, QuestionSet
from spectron.evaluation.judges.base import facts_of
from spectron.evaluation.metrics import answers
from spectron.evaluation.metrics.alignment import fit_text
from spectron.evaluation.metrics.text_scores import SCORERS, is_short
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Table
from spectron.evaluation.suite import Record, Suite
from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache, checksum
from spectron.utils.spacing import once

PROMPT = "Question: {question}\nAnswer:"  # ours: what a text LM continues; its first line is the answer
MAX_TOKENS = 32  # ours: room for the longest alias of a name, not for an essay
CHUNK = 32  # ours: prompts a text LM is given at once


def check(sets: Sequence[QuestionSet], template: str) -> None:
    """Raise UserError if two sets would share a table's rows, or a text LM would not be told the question."""
    if template.count("{question}") != 1:
        raise UserError(f"--prompt {template!r} must hold {{question}} once; write for example {PROMPT!r}.")
    names = [each.name for each in sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Two question sets are called {name!r}; name them: --questions NAME=PATH.")


def after_question(question: str, transcript: str) -> tuple[str, int, int]:
    """(the words after the question's, word errors in the question's, how many it has) of one transcript.

    A transcript holds the question and then the answer, without a separator. Its first words are the question's as far
    as they fit best, case and punctuation aside.
    """
    errors, words, end = fit_text(question, transcript)
    return " ".join(transcript.split()[end:]), errors, words


def judge_facts(role: str, judge: Any) -> dict[str, Any]:
    """A judge's entry in the results, under the suite's own role: one kind of judge can have several."""
    return {**facts_of(judge), "role": role}


def complete(lm: Any, questions: Sequence[str], template: str, max_tokens: int, folder: Path, label: str) -> list[str]:
    """A text LM's answers: the first line it writes after each prompt; kept in `folder`."""
    prompts = [template.replace("{question}", question) for question in questions]
    plan = {"judge": judge_facts("lm", lm), "max_tokens": max_tokens, "prompts": checksum(p.encode() for p in prompts)}

    def work(indices: range) -> list[str]:
        return [first_line(text) for text in lm.complete([prompts[i] for i in indices], max_tokens)]

    return ChunkCache(folder, plan).records(len(prompts), CHUNK, work, label)


def first_line(text: str) -> str:
    """The first line that has words."""
    return " ".join(next((line for line in text.splitlines() if line.strip()), "").split())


def judged(set_name: str, question: Question, texts: Mapping[str, Sequence[str]]) -> Record:
    """A question's line in items.jsonl: every text with every scorer's verdict. texts: system → one per seed."""
    verdicts = {
        system: [
            {"text": text, **{name: scorer(question.answers, text) for name, scorer in SCORERS.items()}}
            for text in each
        ]
        for system, each in texts.items()
    }
    asked = {"set": set_name, "id": question.id, "question": question.question, "answers": question.answers}
    return {**asked, "said": verdicts}


def verdicts(record: Record, system: str, scorer: str) -> list[bool]:
    """Right or wrong, per decoding seed."""
    return [each[scorer] for each in record["said"][system]]


def by_set(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each set."""
    return {name: [r for r in records if r["set"] == name] for name in once(r["set"] for r in records)}


def answer_table(records: Sequence[Record], systems: Mapping[str, str]) -> Table:
    """Rows for every set and system, as in `spectron score qa`. systems: name → what is judged."""
    rows = {
        f"{name}, {system}": (
            [{scorer: verdicts(r, system, scorer) for scorer in SCORERS} for r in of_set],
            [is_short(r["answers"]) for r in of_set],
        )
        for name, of_set in by_set(records).items()
        for system in systems
    }
    return answers.answer_table(rows, "\n".join(f"- {system}: {text}" for system, text in systems.items()))


def data_facts(sets: Sequence[QuestionSet], spoken: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The questions' entries in the results. spoken: how those without a recording are spoken; None: none is heard."""
    facts = []
    for each in sets:
        entry = {"name": each.name, "items": len(each.questions), "checksum": each.checksum}
        synthesised = sum(q.audio is None for q in each.questions)
        if spoken is not None:
            entry |= {"synthesised": synthesised, **(spoken if synthesised else {})}
        facts.append(entry)
    return facts


@dataclasses.dataclass(kw_only=True)
class QASuite(Suite):
    """A suite with one record for every question of its sets."""

    questions: Sequence[tuple[str, Question]]  # with the names of their sets

    item_name = "Question id"
    max_rows = max_players = 1 << 20  # every question

    def question_item(
        self,
        record: Record,
        systems: Iterable[str],
        right: bool,
        more: Mapping[str, Cell] | None = None,
        sounds: Sequence[tuple[str, Int[np.ndarray, " S"]]] = (),
        groups: Sequence[str] = (),
    ) -> page.Item:
        """A question's row: the first seed's texts with their verdicts, then `more` columns, players and a picture."""
        listed = "; ".join(record["answers"][:5]) + (" …" if len(record["answers"]) > 5 else "")
        cells = {"Question": Cell(record["question"], small=f"right: {listed}")}
        for system in systems:
            first = record["said"][system][0]
            marks = {scorer: first[scorer] for scorer in SCORERS}
            cells[system[:1].upper() + system[1:]] = Cell(first["text"], marks=marks, value=sum(marks.values()))
        mels = log_mels([samples for _, samples in sounds], self.features) if sounds else []
        picture = [("question | answer", mels[0], mels[1])] if mels and len(mels[0]) else []
        filters = [record["set"], *([answers.SHORT] if is_short(record["answers"]) else []), *groups]
        cells |= more or {}
        return page.Item(record["id"], cells, sounds, picture, right, filters, record["question"], record["set"])
