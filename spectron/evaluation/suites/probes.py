"""`spectron evaluate probes`: the same prompts answered without text, with forced text, and after other lengths.

What the paper's reviewers asked for: does the text make the speech right, and does wrong text make it wrong?
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.evaluation.judges.base import RATE
from spectron.evaluation.metrics import wer
from spectron.evaluation.metrics.intervals import proportion, seed_average
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Figure, Results, Table
from spectron.evaluation.suite import Record, check_output, run_suite
from spectron.evaluation.suites import speaking
from spectron.evaluation.suites.continuation import check_length
from spectron.evaluation.suites.generation import Generated, generate_all, load_generator, plan_of, with_room
from spectron.evaluation.suites.judge_runner import JudgeRunner, Judges
from spectron.evaluation.suites.probe_errors import error_rows
from spectron.evaluation.suites.speaking import Answer, Measured, Row, SpeakingSuite
from spectron.evaluation.suites.utterances import Check, SplitUtterance, cut, data_facts, read_examples, speakable
from spectron.inference.api import Spectron
from spectron.inference.decode_config import trained_lengths
from spectron.types import Example, UserError
from spectron.utils.plain_words import plain_words

FULL, NO_TEXT, NULL, TRUE, OTHER = "full", "without text", "null tokens", "true text", "another's text"
PROMPTS = (1.0, 2.0, 3.75, 6.0)  # seconds (ours)
SEEDS = 3
SPARE = 1.25  # ours: a shorter prompt leaves more to say, and a voice may be slower than the true one

Force = Callable[[list[Generated]], list[list[int]]]  # the full run's answers → forced ids for each item


@dataclasses.dataclass(frozen=True)
class Probe:
    """One row. force: None leaves the text free; own: the text that the forced text leaves for the voice, None where
    there is none or it is not known. key: names its folder."""

    name: str
    key: str
    items: Sequence[SplitUtterance]
    force: Force | None = None
    own: Sequence[str | None] = ()


@dataclasses.dataclass(frozen=True)
class ClosedWorld:
    """A task with one right answer. voices: the true speakers' vectors; is_seen: whether training held the sequence."""

    voices: Sequence[Any]
    is_seen: Callable[[SplitUtterance], bool]


def evaluate_probes(
    checkpoint: str | Path,
    out: str | Path,
    task: str,
    judges: Judges | None = None,
    split: str = "",
    prompts: Sequence[float] = (),
    text: str = "",
    seeds: int = SEEDS,
    batch_size: int = 8,
    limit: int = 0,
    overrides: Sequence[str] = (),
) -> Results:
    """All probes of a checkpoint on a task; results and report.html in OUT. Resumes if interrupted.

    prompts: lengths in seconds. text: forced as one more probe. Raises UserError.
    """
    check_prompts(prompts, "seconds above 0")
    check_output(out)
    generator, facts = load_generator(checkpoint, overrides, seeds, batch_size, limit)
    experiment = generator.experiment
    fits = check_text(generator, text)
    lengths = sorted({float(s) for s in prompts or PROMPTS})
    check_length("--prompts", lengths[0], experiment.features)
    trained = experiment.data.prompt_seconds
    checks = [fits, speakable(experiment, round(trained * RATE))]
    examples, left_out = read_examples(experiment, task, split, max(*lengths, trained), limit, checks)
    facts |= {"task": task, "split": split, "text": text, "prompts": lengths, "left_out": left_out}
    full = [cut(e, round(trained * RATE)) for e in examples]
    cuts = {f"prompt of {s:g} s": [cut(e, round(s * RATE)) for e in examples] for s in lengths if s != trained}
    return probe(generator, full, cuts, out, judges or Judges(), facts, text)


def check_prompts(prompts: Sequence[float], wanted: str, whole: bool = False) -> None:
    """Raise UserError for a prompt's length that is none. wanted: what to give; whole: only whole numbers."""
    for each in prompts:
        if not 0 < each < math.inf or (whole and not float(each).is_integer()):
            raise UserError(f"--prompts {each:g} is no length; give {wanted}.")


def check_text(generator: Spectron, text: str) -> Check:
    """Whether the model has room to write an example's text. Raises UserError if it has none for the forced text."""
    room, encode = trained_lengths(generator.experiment).text_tokens, generator.vocabulary.encode
    if len(encode(text)) > room:
        raise UserError(f"--text {text!r} is longer than data.max_tokens={room}; shorten it.")

    def fits(example: Example) -> bool:
        return len(encode(" ".join(example.text.split()))) <= room

    return f"with a text longer than data.max_tokens={room}", fits


def probe(
    generator: Spectron,
    full: Sequence[SplitUtterance],
    cuts: Mapping[str, Sequence[SplitUtterance]],
    out: str | Path,
    judges: Judges,
    facts: Mapping[str, Any],
    text: str = "",
    world: ClosedWorld | None = None,
) -> Results:
    """All probes of items cut as in training (full) and otherwise (name → items)."""
    suite = ProbesSuite(
        facts=dict(facts),
        judges=judges.facts(),
        data=[data_facts(str(facts.get("task")), full)],
        features=generator.features,
        generator=generator,
        items=full,
        panel=judges,
        cuts=cuts,
        text=text,
        world=world,
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class ProbesSuite(SpeakingSuite):
    """One row for every probe."""

    name = "probes"
    intro = (
        "The same prompts, answered with and without text, with forced text, and cut at other lengths. Below the "
        "figures: the first decoding seed's answers."
    )

    cuts: Mapping[str, Sequence[SplitUtterance]]
    text: str
    world: ClosedWorld | None
    rows: dict[str, dict[str, Figure]] = dataclasses.field(default_factory=dict)
    # Rows with free text, and the true texts after their prompts.
    free: dict[str, tuple[Row, Sequence[str | None]]] = dataclasses.field(default_factory=dict)

    def measure(self, work: Path) -> list[Record]:
        """Answers and judgements of every probe."""
        size = max(self.facts["batch_size"], 32) if self.world else self.facts["batch_size"]
        runner = JudgeRunner(self.panel, work, size, with_windows=False)
        self.prompt_words = speaking.prompt_words(self.items, runner)
        voices: Sequence[Any] = self.world.voices if self.world else []
        if self.panel.speaker and not self.world:
            voices = runner.voices("prompts", [item.prompt for item in self.items], with_windows=False)
        full_run: list[list[Generated]] = []
        for each in [*self.forcing(), *self.other_lengths()]:
            words = self.prompt_words
            if each.items is not self.items:
                words = speaking.prompt_words(each.items, runner, f"prompts-{each.key}")
            generated = self._generate(each, full_run, work)
            full_run = full_run or generated  # of the first probe, which is the full one
            row = _measured(each, words, generated, runner, voices)
            self.add_row(each.name, each.items, [[g.samples for g in of_seed] for of_seed in generated], row)
            truths = [None if n is None else item.follows(n) for item, n in zip(each.items, words, strict=True)]
            self.rows[each.name] = self.probe_figures(row, each.items, truths, each.force is None)
            if each.force is None:
                self.free[each.name] = row, truths
        return [answer.record() for answer in self.answers]

    def forcing(self) -> list[Probe]:
        """The probes on prompts as in training: free, and forced to no, null, true, another's or a given text."""
        full, vocabulary = self.items, self.generator.vocabulary
        room = trained_lengths(self.generator.experiment).text_tokens
        eos, null = vocabulary.eos_id, vocabulary.unk_id

        def ended(ids: Sequence[int]) -> list[int]:
            return [*ids, eos][:room]  # the limit ends a text too

        spelled = [ended(vocabulary.encode(item.text)) for item in full]
        others = another(full)
        true = [None if n is None else item.follows(n) for item, n in zip(full, self.prompt_words, strict=True)]
        nothing = [None] * len(full)
        probes = [
            Probe(FULL, "full", full),
            Probe(NO_TEXT, "without", full, lambda answers: [[eos]] * len(answers), nothing),
            Probe(NULL, "null", full, lambda answers: [ended([null] * len(a.ids)) for a in answers], nothing),
            Probe(TRUE, "true", full, lambda _: spelled, true),
            Probe(OTHER, "other", full, lambda _: [spelled[j] for j in others], [true[j] for j in others]),
        ]
        if self.text:
            given = ended(vocabulary.encode(self.text))
            name = f"text {self.text!r}"
            probes.append(Probe(name, "given", full, lambda answers: [given] * len(answers), nothing))
        return probes

    def other_lengths(self) -> list[Probe]:
        """The probes on prompts of other lengths, all free."""
        return [Probe(name, f"prompt-{i}", items) for i, (name, items) in enumerate(self.cuts.items())]

    def _generate(self, each: Probe, full_run: list[list[Generated]], work: Path) -> list[list[Generated]]:
        """answers[seed][item]."""
        prompts = [item.prompt for item in each.items]
        longest = max(len(item.rest) for item in each.items) / RATE
        seconds = math.ceil(100 * SPARE * longest) / 100 if each.key.startswith("prompt") else 0.0
        wide = with_room(self.generator, prompts, seconds)
        answers = []
        for seed in range(self.facts["decoding_seeds"]):
            forced = each.force(full_run[seed]) if each.force else None
            folder, label = work / f"{each.key}-{seed}", f"{each.name}, seed {seed}"
            plan, size = plan_of(wide, self.facts), self.facts["batch_size"]
            answers.append(generate_all(wide, prompts, folder, plan, seed, size, forced, label))
        return answers

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """A row for every probe; then errors of transcripts against errors of continuations."""
        note = f"{PROBES} {speaking.unknown_ends(self.panel, self.prompt_words)}".strip()
        errors = error_rows(self.free, self.world is not None)
        return [
            *speaking.titled("Probes", self.rows, note, self.panel.quality()),
            Table("Does a wrong transcript make a wrong continuation?", errors),
        ]

    def cells(self, answer: Answer) -> dict[str, Cell]:
        """With the probe's name."""
        return {"Probe": Cell(answer.row, brief=True), **super().cells(answer)}

    def probe_figures(
        self, row: Row, items: Sequence[SplitUtterance], truths: Sequence[str | None], free: bool
    ) -> dict[str, Figure]:
        """Column → figure of one probe. free: the model wrote the text."""
        words = plain_words if self.world else wer.english_words
        columns: dict[str, Figure] = {}
        base = speaking.figures(row, self.panel.quality(), words)
        if "transcript WER" in base:
            columns["transcript WER"] = base.pop("transcript WER")
        known = [(item, each, t) for item, each, t in zip(items, row, truths, strict=True) if t is not None]
        if self.world:
            columns |= _exact_figures(known, self.world.is_seen, free)
        heard = [
            [wer.word_errors(truth, m.judgement.heard or "", words) for m in each]
            for _, each, truth in known
            if each[0].heard is not None
        ]
        if heard:
            label = "WER against what follows"
            definition = f"{FOLLOWS} {wer.PLAIN if self.world else wer.ENGLISH}"
            columns[label] = seed_average(label, heard, definition, "%")
        if self.world and "Speaker similarity" in base:
            base.pop("Speaker similarity")
            hits = [[(m.judgement.similarity or 0) > 0.5 for m in each] for each in row]
            columns["right speaker"] = proportion("right speaker", hits, SPEAKER)
        return columns | base


def _exact_figures(
    known: Sequence[tuple[SplitUtterance, Sequence[Measured], str]],
    is_seen: Callable[[SplitUtterance], bool],
    free: bool,
) -> dict[str, Figure]:
    """Shares of exactly right texts and speech, of sequences seen in training and held out."""
    columns = {}
    for name, seen in (("seen", True), ("held-out", False)):
        part = [(each, plain_words(truth)) for item, each, truth in known if is_seen(item) == seen]
        if part and free:
            hits = [[plain_words(m.own or "") == truth for m in each] for each, truth in part]
            columns[f"text right, {name}"] = proportion(f"text right, {name}", hits, CONTINUED)
        if part:
            hits = [[m.heard == truth for m in each] for each, truth in part]
            columns[f"heard right, {name}"] = proportion(f"heard right, {name}", hits, RIGHT)
    return columns


def another(items: Sequence[SplitUtterance]) -> list[int]:
    """For each item the index of one with another text, drawn with a fixed seed. Raises UserError if there is none."""
    order = np.random.default_rng(0).permutation(len(items)).tolist()
    place, chosen = {i: at for at, i in enumerate(order)}, []
    for i, item in enumerate(items):
        following = (order[(place[i] + k) % len(order)] for k in range(1, len(order)))
        other = next((j for j in following if items[j].words != item.words), None)
        if other is None:
            raise UserError("All items have the same text: there is none to force; take a larger --limit.")
        chosen.append(other)
    return chosen


def _measured(
    each: Probe,
    words: Sequence[int | None],
    generated: Sequence[Sequence[Generated]],
    runner: JudgeRunner,
    voices: Sequence[Any],
) -> list[list[Measured]]:
    """measured[item][seed]; of forced text no errors are counted, and what it leaves for the voice is known."""
    row: list[list[Measured]] = [[] for _ in each.items]
    for seed, answers in enumerate(generated):
        judgements = runner.judge(f"{each.key}-{seed}", [a.samples for a in answers], voices)
        for i, item in enumerate(each.items):
            measured = speaking.measure(item, words[i], answers[i], judgements[i])
            if each.force is not None:
                measured = dataclasses.replace(measured, prompt_errors=None, prompt_words=0, own=each.own[i])
            row[i].append(measured)
    return row


PROBES = (
    "Without text: end of text at once. Null tokens: as many unknown tokens as the full run wrote. True text and "
    "another's text: forced, the item's or that of another item. Voices are compared with the full run's prompt. "
    "Items are left out whose text the model has no room to write, or whose rest it has no time to say (left_out); "
    "after shorter prompts, which leave more to say, it is given that time."
)
FOLLOWS = "Word errors of what is heard in the generated speech against the real continuation, over these words."
RIGHT = "What is heard in the generated speech is exactly the real continuation."
CONTINUED = "The text's words after the prompt's are exactly those of the real continuation."
SPEAKER = "The speaker judge names the prompt's speaker."
