"""Readers of published question sets, and the questions' recordings, synthesised by espeak if there are none."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from spectron.audio import espeak_cache, wav
from spectron.types import UserError
from spectron.utils.spacing import evenly_spaced
from spectron.utils.text_files import are_texts, check_letters, kind_of, read_json, read_lines, read_objects

log = logging.getLogger(__name__)

VOICE, WORDS_A_MINUTE = "en-us", 160  # ours: espeak's American voice at its medium rate
_HEADER = ("questions", "answer", "wav filename")  # of LLaMA-Questions' table
_DESCRIPTION = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^\s()"]+))\)')  # one answer of WebQuestions
Rows = Sequence[tuple[str, Mapping[str, Any]]]  # file and place in it of each question


class Question(NamedTuple):
    """answers: any of them is right. audio: a recording of the question, None if it must be synthesised."""

    id: str
    question: str
    answers: tuple[str, ...]
    audio: Path | None = None


class QuestionSet(NamedTuple):
    """A named set; ids are unique within it."""

    name: str
    questions: tuple[Question, ...]

    @property
    def checksum(self) -> str:
        """Of ids, texts, answers and recordings, in order: the first 16 hexadecimal digits of SHA-256."""
        total = hashlib.sha256()
        for q in self.questions:
            sound = hashlib.sha256(q.audio.read_bytes()).hexdigest() if q.audio else None
            total.update(json.dumps([q.id, q.question, q.answers, sound]).encode())
        return total.hexdigest()[:16]


def read_questions(place: str | Path, limit: int = 0) -> QuestionSet:
    """The set at [NAME=]PATH. limit: at most N questions, evenly spaced (0: all). Raises UserError.

    PATH is a folder of LLaMA-Questions (a .tsv and its N.wav), one that holds a single .jsonl, or a file: .tsv of that
    layout; .jsonl or .jsonl.gz of {"question", "answers" or "answer", optionally "id" and "audio"}, as NQ-Open is
    published; .json as WebQuestions and TriviaQA are published.
    """
    name, path = _named(str(place))
    file = _file_of(path)
    rows = _READERS[kind_of(file)](file)
    questions = [_question(row, place, str(i), file.parent) for i, (place, row) in enumerate(rows)]
    if not questions:
        raise UserError(f"{str(file)!r} holds no questions; give a file with some.")
    seen: set[str] = set()
    for q in questions:
        if q.id in seen:
            raise UserError(f"{str(file)!r} has two questions with the id {q.id!r}; give each its own.")
        seen.add(q.id)
    chosen = evenly_spaced(questions, limit or len(questions))
    return QuestionSet(name or _name_of(path, file), tuple(_with_recordings(chosen, file)))


def _named(place: str) -> tuple[str, Path]:
    name, sign, path = place.partition("=")
    return (name, Path(path)) if sign and not Path(place).exists() else ("", Path(place))


def _name_of(path: Path, file: Path) -> str:
    """A .tsv by its own name, a folder by the folder's, webquestions/test.jsonl by both."""
    stem, folder = file.name.split(".")[0], file.resolve().parent.name
    if file.suffix == ".tsv":
        return stem
    return folder if path.is_dir() else " ".join(dict.fromkeys((folder, stem))).strip()


def _file_of(path: Path) -> Path:
    if path.is_dir():
        for pattern in ("*.tsv", "*.jsonl", "*.jsonl.gz"):
            files = sorted(path.glob(pattern))
            if len(files) > 1:
                raise UserError(f"Folder {str(path)!r} holds {len(files)} files {pattern}; name one of them.")
            if files:
                return files[0]
        raise UserError(f"Folder {str(path)!r} holds no questions (.tsv or .jsonl); give a file or another folder.")
    if not path.is_file():
        raise UserError(f"Questions {str(path)!r} do not exist; check the path.")
    if kind_of(path) not in _READERS:
        raise UserError(f"Questions {str(path)!r} are of an unknown kind; give {', '.join(_READERS)} (or .gz).")
    return path


def _read_jsonl(path: Path) -> Rows:
    # Manifests of published sample pages list other tasks, and questions without a text, in the same file.
    rows = ((place, row) for _, place, row in read_objects(path))
    return [(place, row) for place, row in rows if "question" in row or "task" not in row]


def _read_tsv(path: Path) -> Rows:
    lines = [(number, line) for number, line in read_lines(path) if line.strip()]
    header = [cell.strip().lower() for cell in (lines[0][1] if lines else "").split("\t")]
    if not set(header) >= set(_HEADER[:2]):
        raise UserError(f"{str(path)!r} starts with no line 'Questions<TAB>Answer<TAB>Wav Filename'; add it.")
    rows = []
    for number, line in lines[1:]:
        cells = dict(zip(header, (cell.strip() for cell in line.split("\t")), strict=False))
        audio = cells.get("wav filename", "")
        row = {"question": cells.get("questions"), "answer": cells.get("answer"), "audio": audio}
        rows.append((f"{str(path)!r}, line {number},", row | ({"id": Path(audio).stem} if audio else {})))
    return rows


def _read_json(path: Path) -> Rows:
    content = read_json(path, letters=False)
    if isinstance(content, dict) and isinstance(content.get("Data"), list):  # TriviaQA
        rows, read = content["Data"], _of_triviaqa
    elif isinstance(content, list):
        rows, read = content, _of_webquestions
    else:
        rows, read = [], None
    if read is not None and all(isinstance(row, dict) for row in rows):
        places = [f"{str(path)!r}, question {i}," for i in range(1, len(rows) + 1)]
        return [(place, read(row, place)) for place, row in zip(places, rows, strict=True)]
    raise UserError(f"{str(path)!r} is laid out neither as WebQuestions nor as TriviaQA; give a .jsonl.")


def _of_triviaqa(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    answer = row.get("Answer")
    if not (isinstance(answer, dict) and isinstance(answer.get("Aliases", []), list)):
        raise UserError(f"{where} has no answer laid out as {{'Value': …, 'Aliases': […]}}; mend it.")
    texts = [answer.get("Value", ""), *answer.get("Aliases", ())]
    answers = [each for i, each in enumerate(texts) if each != "" and each not in texts[:i]]
    return {"id": row.get("QuestionId"), "question": row.get("Question"), "answers": answers}


def _of_webquestions(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if "utterance" not in row:
        return row
    if not isinstance(row.get("targetValue", ""), str):
        raise UserError(f"{where} has a 'targetValue' that is no text; mend it.")
    descriptions = _DESCRIPTION.findall(row.get("targetValue", ""))
    answers = [re.sub(r"\\(.)", r"\1", quoted) or plain for quoted, plain in descriptions]
    return {"question": row["utterance"], "answers": answers}


_READERS = {".tsv": _read_tsv, ".jsonl": _read_jsonl, ".json": _read_json}


def _question(row: Mapping[str, Any], where: str, number: str, folder: Path) -> Question:
    check_letters(row, where)
    text, answers = row.get("question"), row.get("answers", row.get("answer"))
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where} has no text under 'question'; add it or leave the question out.")
    if not answers:
        raise UserError(f"{where} has no answer under 'answers'; add one or leave the question out.")
    if not are_texts(answers):
        wanted = "a text or a list of texts, none of them empty"
        raise UserError(f"{where} has answers that are no texts ({json.dumps(answers)[:60]}); give {wanted}.")
    kept = [answer.strip() for answer in ([answers] if isinstance(answers, str) else answers)]
    name = row.get("id") if row.get("id") not in (None, "") else number
    audio = row.get("audio") or row.get("prompt")
    if audio and not isinstance(audio, str):
        raise UserError(f"{where} names the recording {audio!r}, which is no file name; mend 'audio'.")
    return Question(str(name), " ".join(text.split()), tuple(kept), folder / audio if audio else None)


def _with_recordings(questions: Sequence[Question], file: Path) -> list[Question]:
    """The questions, without recordings if none of the named files exists. Raises UserError if only some do."""
    named = [q for q in questions if q.audio]
    missing = [q for q in named if q.audio and not os.path.isfile(q.audio)]
    if not missing:
        return list(questions)
    if len(missing) < len(named):
        raise UserError(
            f"{str(file)!r} names {len(missing)} recordings that do not exist, such as {str(missing[0].audio)!r}; add "
            f"them or leave the questions out."
        )
    log.warning("None of the %d recordings that %s names is there: the questions are synthesised.", len(named), file)
    return [q._replace(audio=None) for q in questions]


def synthesis_facts(voice: str = VOICE) -> dict[str, Any]:
    """How questions without a recording are spoken."""
    return espeak_cache.synthesis_facts(voice, WORDS_A_MINUTE)


def recordings(
    questions: Sequence[Question], sample_rate: int, voice: str = VOICE, folder: Path | None = None
) -> list[Int[np.ndarray, " S"]]:
    """int16 [S] at `sample_rate` of every question, in order. folder: of synthesised ones (default: the cache folder).

    Raises UserError for a recording that cannot be read, or if espeak is missing.
    """
    texts = [q.question for q in questions if q.audio is None]
    synthesised = iter(espeak_cache.spoken_texts(texts, voice, WORDS_A_MINUTE, sample_rate, folder))
    return [wav.read(q.audio or next(synthesised), sample_rate) for q in questions]
