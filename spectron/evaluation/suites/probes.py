"""`spectron evaluate probes`: the same prompts answered without text, with forced text, and after other lengths.

What the paper's reviewers asked for: is it the text that makes the speech right, and does wrong text make it wrong?
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spectron.evaluation.judges.outside import RATE
from spectron.evaluation.scores.alignment import distance
from spectron.evaluation.scores.intervals import Figure, average, proportion
from spectron.evaluation.scores.tables import Results, Table
from spectron.evaluation.suites import speaking_page
from spectron.evaluation.suites.answers import Said, answer_items
from spectron.evaluation.suites.continuation import (
    WORK,
    check_length,
    load,
    prompt_words,
    unknown_ends,
    write,
    write_items,
)
from spectron.evaluation.suites.counting import check_folders
from spectron.evaluation.suites.digit_panel import PROMPTS as DIGIT_PROMPTS
from spectron.evaluation.suites.digit_panel import digit_cuts, digit_panel, digit_voices, is_known, pick_items
from spectron.evaluation.suites.measures import Measured, Row, figures, measure, titled
from spectron.evaluation.suites.panel import Hearing, Panel
from spectron.evaluation.suites.probe_errors import error_rows
from spectron.evaluation.suites.utterances import (
    Item,
    cut,
    data_facts,
    keep,
    plan_of,
    read_examples,
    speakable,
    with_room,
)
from spectron.inference.api import Spectron
from spectron.inference.decode_config import trained_lengths
from spectron.types import Example, UserError

FULL, NO_TEXT, NULL, TRUE, OTHER = "full", "without text", "null tokens", "true text", "another's text"
PROMPTS = (1.0, 2.0, 3.75, 6.0)  # seconds, the issue's
SEEDS = 3
SPARE = 1.25  # ours: a shorter prompt leaves more to say, and a voice may be slower than the true one

Force = Callable[[list[Said]], list[list[int]]]  # what the full run said → ids for each item


@dataclasses.dataclass(frozen=True)
class Probe:
    """One row. force: None leaves the text free; own: the words that the forced text leaves for the voice, None where
    there are none or nobody knows. key: names its folder."""

    name: str
    key: str
    items: Sequence[Item]
    force: Force | None = None
    own: Sequence[tuple[str, ...] | None] = ()


def evaluate_probes(
    checkpoint: str | Path,
    out: str | Path,
    task: str = "",
    panel: Panel | None = None,
    judges_dir: str | Path | None = None,
    split: str = "",
    prompts: Sequence[float] = (),
    text: str = "",
    seeds: int = SEEDS,
    repeats: int = 1,
    batch_size: int = 8,
    limit: int = 0,
    overrides: Sequence[str] = (),
) -> Results:
    """All probes of a checkpoint; results and report.html in OUT. Killed and called again, it goes on.

    task "": the counting world, judged by its own judges (kept in judges_dir; OUT/judges), its prompts cut behind so
    many digits. Another task: prompts in seconds, judged by the panel. text: forced as one more probe. repeats: takes
    of each sequence by each speaker of the counting world. Raises UserError.
    """
    prompts = _checked(prompts, bool(task))
    check_folders(out, judges_dir)
    generator, facts = load(checkpoint, overrides, seeds, batch_size, limit)
    out, experiment = Path(out), generator.experiment
    left_out: dict[str, int] = {}
    room = trained_lengths(experiment).text_tokens
    if len(generator.vocabulary.encode(text)) > room:
        raise UserError(f"--text {text!r} is longer than data.max_tokens={room}; shorten it.")

    def spells(example: Example) -> bool:
        return len(generator.vocabulary.encode(" ".join(example.text.split()))) <= room

    short = f"with a text longer than data.max_tokens={room}", spells
    facts |= {"task": task or "counting", "split": split, "text": text, "repeats": repeats}
    if not task:
        examples = keep(pick_items(experiment, repeats, limit), left_out, short)
        facts["left_out"] = left_out
        facts["prompts"] = [int(n) for n in prompts or DIGIT_PROMPTS]
        full, cuts = digit_cuts(examples, facts["prompts"], experiment.features)
        panel = digit_panel(experiment, judges_dir or out / "judges")
        hearing = Hearing(panel, out / WORK, max(batch_size, 32), windows=False)
        return probe(generator, full, cuts, out, hearing, facts, text, digit_voices(panel, full))
    lengths = sorted({float(s) for s in prompts or PROMPTS})
    check_length("--prompts", lengths[0], experiment.features)
    facts["prompts"] = lengths
    trained = experiment.data.prompt_seconds
    checks = [short, speakable(experiment, round(trained * RATE))]
    examples, left_out = read_examples(experiment, task, split, max(*lengths, trained), limit, checks)
    facts["left_out"] = left_out
    full = [cut(e, round(trained * RATE)) for e in examples]
    cuts = {f"prompt of {s:g} s": [cut(e, round(s * RATE)) for e in examples] for s in lengths if s != trained}
    hearing = Hearing(panel or Panel(), out / WORK, batch_size, windows=False)
    return probe(generator, full, cuts, out, hearing, facts, text)


def _checked(prompts: Sequence[float], spoken: bool) -> Sequence[float]:
    """Lengths of prompts as given: seconds, or digits of the counting world. Raises UserError."""
    for each in prompts:
        if not (0 < each < math.inf and (spoken or float(each).is_integer())):
            wanted = "seconds above 0" if spoken else "whole numbers of digits"
            raise UserError(f"--prompts {each:g} is no length; give {wanted}.")
    return prompts


def probe(
    generator: Spectron,
    full: Sequence[Item],
    cuts: Mapping[str, Sequence[Item]],
    out: Path,
    hearing: Hearing,
    facts: Mapping[str, Any],
    text: str = "",
    voices: list[Any] | None = None,
) -> Results:
    """All probes of items cut as in training and otherwise. voices: the true speakers', in the counting world."""
    closed, heard, quality = voices is not None, prompt_words(full, hearing), getattr(hearing.panel.mos, "measures", {})
    if voices is None:
        voices = (
            hearing.voices("prompts", [item.prompt for item in full], windows=False) if hearing.panel.speaker else []
        )
    rows: dict[str, tuple[Sequence[Item], Row]] = {}
    free: dict[str, tuple[Row, Sequence[list[str] | None]]] = {}
    tables: dict[str, dict[str, Figure]] = {}
    written: list[list[Said]] = []
    shown: list[speaking_page.Shown] = []
    probes = [*forcing(generator, full, heard, text), *lengths(cuts)]
    for each in probes:
        known = heard if each.items is full else prompt_words(each.items, hearing, f"prompts-{each.key}")
        said = _answers(generator, each, written, out, facts)
        written = written or said  # of the first probe, which is the full one
        row = _measured(each, known, said, hearing, voices)
        rows[each.name] = (each.items, row)
        shown += [(each.name, i, s.samples, m[0]) for i, s, m in zip(each.items, said[0], row, strict=True)]
        truths = [None if n is None else item.plain(n) for item, n in zip(each.items, known, strict=True)]
        tables[each.name] = probe_figures(row, each.items, truths, closed, each.force is None, quality)
        if each.force is None:
            free[each.name] = row, truths
    results = Results(
        "probes",
        [
            *titled("Probes", tables, f"{PROBES} {unknown_ends(hearing.panel, heard)}".strip(), quality),
            Table("Does a wrong transcript make a wrong continuation?", error_rows(free, closed)),
        ],
        facts,
        hearing.panel.facts(),
        [data_facts(str(facts.get("task")), full)],
    )
    write_items(out / "items.jsonl", rows)
    speaking_page.write(out / "report.html", results, shown, speaking_page.PROBES, generator.features)
    write(out, results)
    return results


def forcing(generator: Spectron, full: Sequence[Item], heard: Sequence[int | None], text: str) -> list[Probe]:
    """The probes on prompts as in training: free, without text, null tokens, the true text, another's, a given one."""
    vocabulary, room = generator.vocabulary, trained_lengths(generator.experiment).text_tokens
    eos, null = vocabulary.eos_id, vocabulary.unk_id

    def ended(ids: Sequence[int]) -> list[int]:
        return [*ids, eos][:room]  # the limit ends a text too

    def spelled(item: Item) -> list[int]:
        return ended(vocabulary.encode(item.text))

    others = another(full)
    true = [None if n is None else tuple(item.plain(n)) for item, n in zip(full, heard, strict=True)]
    nothing = [None] * len(full)
    found = [
        Probe(FULL, "full", full),
        Probe(NO_TEXT, "without", full, lambda said: [[eos]] * len(said), nothing),
        Probe(NULL, "null", full, lambda said: [ended([null] * len(s.ids)) for s in said], nothing),
        Probe(TRUE, "true", full, lambda said: [spelled(item) for item in full], true),
        Probe(OTHER, "other", full, lambda said: [spelled(full[j]) for j in others], [true[j] for j in others]),
    ]
    if text:
        ids = ended(vocabulary.encode(text))
        found.append(Probe(f"text {text!r}", "given", full, lambda said: [ids] * len(said), nothing))
    return found


def lengths(cuts: Mapping[str, Sequence[Item]]) -> list[Probe]:
    """The probes on prompts of other lengths, all free."""
    return [Probe(name, f"prompt-{i}", items) for i, (name, items) in enumerate(cuts.items())]


def another(items: Sequence[Item]) -> list[int]:
    """For each item the number of one with another text, drawn once and for all. Raises UserError."""
    order = np.random.default_rng(0).permutation(len(items)).tolist()
    place, found = {i: at for at, i in enumerate(order)}, []
    for i, item in enumerate(items):
        turned = (order[(place[i] + k) % len(order)] for k in range(1, len(order)))
        chosen = next((j for j in turned if items[j].words != item.words), None)
        if chosen is None:
            raise UserError("All items have the same text: there is none to force; take a larger --limit.")
        found.append(chosen)
    return found


def _answers(
    generator: Spectron, each: Probe, written: list[list[Said]], out: Path, facts: Mapping[str, Any]
) -> list[list[Said]]:
    """answers[seed][item]."""
    prompts = [item.prompt for item in each.items]
    longest = max(len(item.rest) for item in each.items) / RATE
    room = math.ceil(100 * SPARE * longest) / 100 if each.key.startswith("prompt") else 0.0
    wide = with_room(generator, prompts, room)
    answers = []
    for seed in range(facts["decoding_seeds"]):
        forced = each.force(written[seed]) if each.force else None
        folder, what = out / WORK / f"{each.key}-{seed}", f"{each.name}, seed {seed}"
        plan, rows = plan_of(wide, facts), facts["batch_size"]
        answers.append(answer_items(wide, prompts, folder, plan, seed, rows, forced, what))
    return answers


def _measured(
    each: Probe, heard: Sequence[int | None], said: Sequence[Sequence[Said]], hearing: Hearing, voices: list[Any]
) -> list[list[Measured]]:
    """measured[item][seed]; of forced text no errors are counted, and what it leaves for the voice is known."""
    row: list[list[Measured]] = [[] for _ in each.items]
    for seed, answers in enumerate(said):
        found = hearing.opinions(f"{each.key}-{seed}", [a.samples for a in answers], voices)
        for i, item in enumerate(each.items):
            one = measure(item, heard[i], answers[i], found[i])
            if each.force is not None:
                one = dataclasses.replace(one, prompt_errors=None, prompt_words=0, own=each.own[i])
            row[i].append(one)
    return row


PROBES = (
    "Without text: end of text at once. Null tokens: as many unknown tokens as the full run wrote. True text and "
    "another's text: forced, the item's or that of another item. Voices are compared with the full run's prompt. "
    "Items are left out whose text the model has no room to write, or whose rest it has no time to say (left_out); "
    "after shorter prompts, which leave more to say, it is given that time."
)
FOLLOWS = "Word errors of what is heard in the continuation against what truly follows the prompt, over these words."
RIGHT = "What is heard in the continuation is exactly what truly follows the prompt."
CONTINUED = "The text's words behind the prompt's are exactly those that truly follow."
SPEAKER = "The speaker judge names the prompt's speaker."


def probe_figures(
    row: Row,
    items: Sequence[Item],
    truths: Sequence[list[str] | None],
    closed: bool,
    free: bool,
    quality: Mapping[str, str],
) -> dict[str, Figure]:
    """Column → figure. closed: the counting world, where there is one right answer; free: the model wrote the text."""
    base, found = figures(row, quality), {}
    pairs = [(item, each, truth) for item, each, truth in zip(items, row, truths, strict=True) if truth is not None]
    if "transcript WER" in base:
        found["transcript WER"] = base.pop("transcript WER")
    worlds = [("seen", True), ("held-out", False)] if closed else []
    for name, known in worlds:
        mine = [(each, truth) for item, each, truth in pairs if is_known(item) == known]
        if mine and free:
            hits = [[list(m.own or ()) == truth for m in each] for each, truth in mine]
            found[f"text right, {name}"] = proportion(f"text right, {name}", hits, CONTINUED)
        if mine:
            hits = [[m.heard == truth for m in each] for each, truth in mine]
            found[f"heard right, {name}"] = proportion(f"heard right, {name}", hits, RIGHT)
    told = [(each, truth) for _, each, truth in pairs if each[0].heard is not None]
    if told:
        errors = [float(np.mean([distance(truth, m.heard or []) for m in each])) for each, truth in told]
        label = "WER against what follows"
        found[label] = average(label, errors, FOLLOWS, "%", [len(truth) for _, truth in told])
    if closed and "Speaker similarity" in base:
        base.pop("Speaker similarity")
        hits = [[(m.opinion.similarity or 0) > 0.5 for m in each] for each in row]
        found["right speaker"] = proportion("right speaker", hits, SPEAKER)
    return found | base
