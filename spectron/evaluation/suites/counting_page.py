"""The counting suite's report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron.audio.spectrograms import log_mels
from spectron.config import Experiment
from spectron.evaluation.picking import spread
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell, Item, Page
from spectron.evaluation.scores.intervals import Figure
from spectron.evaluation.suites.answers import Said
from spectron.types import Example
from spectron.utils.html import Section

if TYPE_CHECKING:
    from spectron.evaluation.suites.counting import Verdict

SHOWN = 24  # ours: enough to judge by ear
LARGEST = 9_000_000  # ours: characters of all sounds and pictures
check = page.check


def write(
    path: Path,
    results: dict[str, Any],
    figures: dict[str, Figure],
    items: Sequence[Example],
    answers: Sequence[Said],
    verdicts: Sequence[Verdict],
    experiment: Experiment,
) -> None:
    """Write the report of one decoding seed's answers, one verdict per item, beside the figures over all seeds."""
    shown = choose(verdicts)
    wrong = sum(not verdicts[i].right for i in shown)
    facts = (
        f"{results['items']} test items × {results['decoding_seeds']} decoding seeds · experiment "
        f"{results['experiment']} · checkpoint {results['checkpoint']}"
    )
    intro = ("A speaker counts three digits; the model writes all six and speaks the other three.", facts)
    below = (
        f"{len(shown)} of {len(verdicts)} answers of the first decoding seed, {wrong} of them wrong somewhere (wrong "
        f"ones are shown more often than they occur). In the pictures the line is where the prompt ends."
    )
    heads = ("Speaker", "Answers", "Text exact", "Digits heard", "Right voice", "Stops")
    sections = (
        page.figures_section("Figures", list(figures.values())),
        Section("Speakers", [speaker_row(*pair) for pair in results["speakers"].items()], heads, "sortable"),
    )
    rows = [item_row(items[i], answers[i], verdicts[i], experiment) for i in shown]
    title = f"Counting on, in the same voice · {results['experiment']}"
    page.write_page(path, Page(title, intro, sections, rows, below, experiment.features, "Digits"), LARGEST)


def choose(verdicts: Sequence[Verdict], most: int = SHOWN) -> list[int]:
    """Numbers of at most `most` items: up to half wrong ones, the rest right, held-out and seen, evenly spread."""
    wrong = [i for i, v in enumerate(verdicts) if not v.right]
    groups = [[i for i, v in enumerate(verdicts) if v.right and v.held_out == held] for held in (True, False)]
    picked = spread(wrong, max(most // 2, most - sum(map(len, groups))))
    picked += spread(groups[0], max((most - len(picked)) // 2, most - len(picked) - len(groups[1])))
    picked += spread(groups[1], most - len(picked))
    return sorted(picked)


def speaker_row(name: str, row: dict[str, float]) -> list[Cell]:
    """One line of the table of speakers."""
    shares = [Cell(f"{100 * row[k]:.1f} %", value=row[k]) for k in ("text", "heard", "voice", "stopped")]
    return [Cell(name), Cell(f"{row['answers']:.0f}"), *shares]


def item_row(item: Example, said: Said, verdict: Verdict, experiment: Experiment) -> Item:
    """One answer: what was asked, pictures, players, transcript and verdicts."""
    prompt, real = item.samples[: item.prompt_samples], item.samples[item.prompt_samples :]
    mels = log_mels([prompt, real], experiment.features)
    group = "held-out" if verdict.held_out else "seen"
    return Item(
        name=f"{verdict.asked} → {verdict.expected}",
        cells={
            "Speaker": Cell(verdict.speaker, brief=True),
            "Sequence": Cell(group, brief=True),
            "Transcript": Cell(said.transcript, verdict.text_right),
            "Heard": Cell(verdict.heard, verdict.heard_right, brief=True),
            "Voice": Cell(verdict.voice, verdict.voice_right, brief=True),
            "Ended by": Cell("stop head" if said.stopped else "maximum length", said.stopped, brief=True),
            "Seconds": Cell(
                f"{verdict.seconds:.2f}", small=f"real {verdict.real_seconds:.2f}", value=verdict.seconds, brief=True
            ),
        },
        sounds=(("prompt", prompt), ("generated", said.samples), ("real", real)),
        mels=(("generated", mels[0], said.frames), ("real", mels[0], mels[1])),
        right=verdict.right,
        groups=(f"{group} sequences",),
        description=f"{verdict.speaker}: {verdict.asked}, then {verdict.expected}",
    )
