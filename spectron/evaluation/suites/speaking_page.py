"""report.html of continuations and probes: what was said and what truly follows, to look at and to hear."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from spectron.audio.spectrograms import log_mels
from spectron.config import FeatureConfig
from spectron.evaluation.picking import spread
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.scores.tables import Results
from spectron.evaluation.suites.measures import Measured
from spectron.evaluation.suites.utterances import Item

ROWS = 240  # ours: a page of more is slow to sort
PLAYERS = 32  # ours: rows with sounds and pictures, of which each takes a third of a second to draw

Shown = tuple[
    str, Item, Int[np.ndarray, " S"], Measured
]  # the table's row it belongs to, item, what was said, measured

CONTINUATION = (
    "Every prompt is heard, written down and continued in one decoding pass. Below the figures: the first decoding "
    "seed's answers beside what truly follows."
)
PROBES = (
    "The same prompts, answered with and without text, with forced text, and cut at other lengths. Below the figures: "
    "the first decoding seed's answers."
)


def write(path: Path, results: Results, shown: Sequence[Shown], intro: str, features: FeatureConfig) -> None:
    """Write the page, evenly spread answers on it. Raises UserError where it cannot be written."""
    chosen = [shown[i] for i in spread(range(len(shown)), ROWS)]
    heard = set(spread(range(len(chosen)), PLAYERS))
    sounds = [s for i in sorted(heard) for s in (chosen[i][1].prompt, chosen[i][2], chosen[i][1].rest)]
    mels = iter(log_mels(sounds, features))
    several = len({name for name, *_ in chosen}) > 1
    items = []
    for i, (name, item, said, measured) in enumerate(chosen):
        players, pictures = [], []
        if i in heard:
            prompt, answer, truth = next(mels), next(mels), next(mels)
            players = [("prompt", item.prompt), ("answer", said), ("what follows", item.rest)]
            pictures = [("answer", prompt, answer), ("what follows", prompt, truth)]
        items.append(
            page.Item(
                item.id,
                {**({"Probe": Cell(name, brief=True)} if several else {}), **_cells(item, measured)},
                players,
                pictures,
                groups=[name] if several else [],
                description=item.text,
            )
        )
    fewer = [f"{len(chosen)} of {len(shown)} items are shown."] if len(chosen) < len(shown) else []
    page.write(path, results, items, [intro, *fewer], features, "Utterance")


def _cells(item: Item, measured: Measured) -> dict[str, Cell]:
    opinion = measured.opinion
    right = measured.prompt_errors == 0 if measured.prompt_words and measured.prompt_errors is not None else None
    cells = {"True text": Cell(item.text), "Transcript": Cell(measured.transcript, right)}
    if opinion.heard is not None:
        agrees = None if measured.faults is None else measured.faults == 0
        cells["Heard in the answer"] = Cell(opinion.heard, agrees)
    if opinion.nats is not None:
        cells["−ln p"] = Cell(f"{opinion.nats:.1f}", value=opinion.nats, brief=True)
    if opinion.similarity is not None:
        cells["Voice"] = Cell(f"{opinion.similarity:.2f}", value=opinion.similarity, brief=True)
    for name, value in opinion.mos.items():
        cells[name] = Cell(f"{value:.2f}", value=value, brief=True)
    cells["Ended by"] = Cell("stop head" if measured.stopped else "maximum length", measured.stopped, brief=True)
    cells["Seconds"] = Cell(f"{measured.seconds:.2f}", value=measured.seconds, brief=True)
    return cells
