"""What the suites of spoken continuations share: what is measured of one answer, its figures, and the report's rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Int

from spectron.audio.spectrograms import log_mels
from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics import perplexity, similarity, wer
from spectron.evaluation.metrics.alignment import fit_text
from spectron.evaluation.metrics.intervals import proportion, seed_average
from spectron.evaluation.metrics.perplexity import Surprise
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Figure, Table
from spectron.evaluation.suite import Record, Suite, number_cell, stop_cell
from spectron.evaluation.suites.generation import STOPS, Generated
from spectron.evaluation.suites.judge_runner import Judgement, JudgeRunner, Judges
from spectron.evaluation.suites.utterances import SplitUtterance
from spectron.inference.api import Spectron
from spectron.utils.plain_words import plain_words
from spectron.utils.spacing import evenly_spaced

# Quantities that `spectron score` measures too use its table names, so that rows of both can be joined.
SHARED = {
    "WER": "Words",
    **dict.fromkeys(perplexity.DEFINITIONS, "Log-perplexity"),
    "Speaker similarity": "Speaker similarity",
    "Drift": "Speaker similarity",
}
TRANSCRIPT = (
    "Word errors of the transcript against the prompt's words, over these words, without accents and punctuation; the "
    "transcript is taken up to where they fit it best, and what follows is the continuation."
)
FAITHFUL = (
    "Word errors of what the recogniser hears in the continuation against the words that the model's own text has "
    "after the prompt's (true text and recording in the row of the truth: the recogniser's own errors), over these."
)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One continuation, measured.

    prompt_errors, prompt_words: of the transcript's part that is the prompt's; None and 0 if that is not known. own:
    the text after it, which the voice should say; None if not known. stopped: None for a true recording.
    """

    transcript: str
    prompt_errors: int | None
    prompt_words: int
    own: str | None
    judgement: Judgement
    stopped: bool | None
    seconds: float

    @property
    def heard(self) -> list[str] | None:
        """The words that the recogniser heard, without accents and punctuation."""
        return None if self.judgement.heard is None else plain_words(self.judgement.heard)

    def word_errors(self, words: wer.Normaliser) -> tuple[int, int] | None:
        """(errors, words) of what was heard against its own text; None if one of them is not known."""
        if self.own is None or self.judgement.heard is None:
            return None
        return wer.word_errors(self.own, self.judgement.heard, words)


Row = Sequence[Sequence[Measured]]  # [item][decoding seed]


def measure(item: SplitUtterance, prompt_words: int | None, answer: Generated, judgement: Judgement) -> Measured:
    """One answer. prompt_words: how many of the item's words the prompt holds."""
    errors, count, own = None, 0, None
    if prompt_words is not None:
        errors, count, end = fit_text(" ".join(item.words[:prompt_words]), answer.transcript)
        own = " ".join(answer.transcript.split()[end:])
    seconds = len(answer.samples) / RATE
    return Measured(answer.transcript, errors, count, own, judgement, answer.stopped, seconds)


def true_measure(
    item: SplitUtterance, prompt_words: int | None, samples: Int[np.ndarray, " S"], judgement: Judgement
) -> Measured:
    """The real continuation, measured as if it were an answer."""
    own = None if prompt_words is None else item.follows(prompt_words)
    return Measured(item.text, None, prompt_words or 0, own, judgement, None, len(samples) / RATE)


def figures(
    row: Row, quality: Mapping[str, str] | None = None, words: wer.Normaliser = wer.english_words
) -> dict[str, Figure]:
    """Column → figure, of everything that was measured. quality: definitions of a judge's measures."""

    def average(
        label: str, definition: str, unit: str, pair: Callable[[Measured], tuple[float, float] | None]
    ) -> dict[str, Figure]:
        pairs = [[each for m in item if (each := pair(m)) is not None] for item in row]
        return {label: seed_average(label, pairs, definition, unit)}

    silent = [[not m.heard for m in each if m.heard is not None] for each in row]
    stops = [[m.stopped for m in each if m.stopped is not None] for each in row]
    surprises = [
        [Surprise(j.nats, j.tokens, len((j.heard or "").split())) for m in each if (j := m.judgement).nats is not None]
        for each in row
    ]
    normalised = wer.ENGLISH if words is wer.english_words else wer.PLAIN
    rated = {name for each in row for m in each for name in m.judgement.mos}
    columns = {
        **average("transcript WER", TRANSCRIPT, "%", lambda m: _pair(m.prompt_errors, m.prompt_words)),
        **average("WER", f"{FAITHFUL} {normalised}", "%", lambda m: m.word_errors(words)),
        **perplexity.perplexity_figures(surprises),
        "nothing heard": proportion("nothing heard", silent, "The recogniser heard no word at all."),
        **similarity.similarity_figures(
            [[m.judgement.similarity for m in each] for each in row],
            [[m.judgement.course for m in each] for each in row],
        ),
    }
    for name in dict.fromkeys([*(quality or ()), *sorted(rated)]):  # in the judge's own order
        definition = (quality or {}).get(name, f"Mean of {name}.")
        columns |= average(name, definition, "", lambda m, of=name: _pair(m.judgement.mos.get(of), 1))  # type: ignore[misc]
    columns["stops by itself"] = proportion("stops by itself", stops, STOPS)
    columns |= average("seconds", "Length of the continuation.", "s", lambda m: (m.seconds, 1))
    return {name: figure for name, figure in columns.items() if not math.isnan(figure.value)}


def _pair(value: float | None, weight: float) -> tuple[float, float] | None:
    return None if value is None else (value, weight)


def titled(title: str, rows: Mapping[str, Mapping[str, Figure]], note: str, quality: Mapping[str, str]) -> list[Table]:
    """A suite's own columns in a table of this title, and those that `spectron score` has in tables of its titles."""
    table_of = SHARED | dict.fromkeys(quality, "Sound")
    tables = []
    for name in (title, *dict.fromkeys(table_of.values())):
        part = {row: {c: f for c, f in each.items() if table_of.get(c, title) == name} for row, each in rows.items()}
        if any(part.values()):
            tables.append(Table(name, {row: each for row, each in part.items() if each}, note if name == title else ""))
    return tables


def prompt_words(items: Sequence[SplitUtterance], runner: JudgeRunner, name: str = "prompts") -> list[int | None]:
    """How many of its text's first words each prompt holds: from word times, else from what the recogniser hears.

    None without both, and if none of the words heard is the text's: the prompt may end anywhere then.
    """
    if all(item.prompt_words >= 0 for item in items) or runner.judges.asr is None:
        return [item.prompt_words if item.prompt_words >= 0 else None for item in items]
    heard = runner.texts(name, [item.prompt for item in items])
    return [
        item.prompt_words if item.prompt_words >= 0 else fit_text(text, item.text)[2] or None
        for item, text in zip(items, heard, strict=True)
    ]


def unknown_ends(judges: Judges, words: Sequence[int | None]) -> str:
    """The table's note on prompts whose words prompt_words could not tell from the rest's."""
    lost = sum(each is None for each in words)
    if not lost:
        return ""
    if judges.asr is None:
        return "Where the prompt's words end is not known: --asr finds them, or word_ends in the manifest."
    return (
        f"In {lost} of {len(words)} prompts the recogniser hears none of the text's words: where they end is not "
        f"known, and errors are not counted there."
    )


@dataclasses.dataclass(frozen=True)
class Answer:
    """One row of items.jsonl: an answer of a table's row, and its audio for the report."""

    row: str
    item: SplitUtterance
    seed: int
    samples: Int[np.ndarray, " S"]
    measured: Measured

    def record(self) -> Record:
        """As JSON."""
        where = {"id": self.item.id, "row": self.row, "seed": self.seed, "speaker": self.item.speaker}
        return where | {"text": self.item.text, **dataclasses.asdict(self.measured)}


@dataclasses.dataclass(kw_only=True)
class SpeakingSuite(Suite):
    """A suite whose model continues utterances before judges. `measure` adds rows of answers in order."""

    item_name = "Utterance"
    generator: Spectron
    items: Sequence[SplitUtterance]
    panel: Judges
    answers: list[Answer] = dataclasses.field(default_factory=list)
    prompt_words: list[int | None] = dataclasses.field(default_factory=list)  # of each item

    def add_row(
        self,
        name: str,
        items: Sequence[SplitUtterance],
        samples: Sequence[Sequence[Int[np.ndarray, " S"]]],
        measured: Row,
    ) -> None:
        """Answers samples[seed][item], measured[item][seed]."""
        for i, (item, row) in enumerate(zip(items, measured, strict=True)):
            self.answers += [Answer(name, item, seed, samples[seed][i], each) for seed, each in enumerate(row)]

    def shown(self, records: Sequence[Record]) -> list[int]:
        """The first decoding seed's answers."""
        generated = [i for i, each in enumerate(self.answers) if each.measured.stopped is not None and not each.seed]
        return evenly_spaced(generated, self.max_rows)

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """One answer against the real continuation."""
        answer = self.answers[i]
        item, players, pictures = answer.item, [], []
        if with_media:
            players = [("prompt", item.prompt), ("answer", answer.samples), ("what follows", item.rest)]
            prompt, spoken, truth = log_mels([samples for _, samples in players], self.features)
            pictures = [("answer", prompt, spoken), ("what follows", prompt, truth)]
        cells = self.cells(answer)
        group = [answer.row] if "Probe" in cells else []
        return page.Item(item.id, cells, players, pictures, groups=group, description=item.text)

    def cells(self, answer: Answer) -> dict[str, Cell]:
        """The columns of one answer."""
        measured, judgement = answer.measured, answer.measured.judgement
        right = measured.prompt_errors == 0 if measured.prompt_words and measured.prompt_errors is not None else None
        cells = {"True text": Cell(answer.item.text), "Transcript": Cell(measured.transcript, right)}
        if judgement.heard is not None:
            errors = measured.word_errors(plain_words)
            cells["Heard in the answer"] = Cell(judgement.heard, errors and errors[0] == 0)
        if judgement.nats is not None:
            cells["−ln p"] = number_cell(judgement.nats, decimals=1)
        if judgement.similarity is not None:
            cells["Voice"] = number_cell(judgement.similarity)
        cells |= {name: number_cell(value) for name, value in judgement.mos.items()}
        return cells | {"Ended by": stop_cell(measured.stopped), "Seconds": number_cell(measured.seconds)}
