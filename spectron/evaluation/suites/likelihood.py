"""`spectron evaluate likelihood`: which of two recordings is likelier to the model, as speech LMs are compared.

Pairs are compared by the likelihoods of inference.likelihood: of frames per frame, of text per token (of a text that
the model wrote itself this says how sure it is), and by the sum of both. Pairs of one item (a word by several voices,
say) are averaged first, as the published suites do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from spectron.audio import wav
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.data.recording_pairs import Pair, read_pairs
from spectron.evaluation.metrics.intervals import proportion
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell
from spectron.evaluation.results import Figure, Results, Table
from spectron.evaluation.suite import Record, Suite, check_output, run_suite
from spectron.inference.api import Spectron
from spectron.inference.likelihood import PROMPT_SECONDS, Likelihood, log_likelihood
from spectron.types import UserError
from spectron.utils.chunk_cache import ChunkCache, checksum
from spectron.utils.spacing import evenly_spaced

COLUMNS = {
    "frames": "The right recording has more ln p of frames per frame.",
    "text": "The right recording has more ln p of text per token.",
    "both": "The right recording has more ln p of text and frames, summed.",
}


def evaluate_likelihood(
    checkpoint: str | Path,
    pairs: str | Path,
    out: str | Path,
    prompt_seconds: float = PROMPT_SECONDS,
    batch_size: int = 8,
    limit: int = 0,
) -> Results:
    """How often the right recording of a pair is the likelier one; results and report.html in OUT.

    Resumes if interrupted. limit: at most N pairs, evenly spread (0: all). Raises UserError.
    """
    if batch_size < 2 or batch_size % 2:
        raise UserError(f"--batch-size {batch_size} holds no pairs; give an even number.")
    if not (math.isfinite(prompt_seconds) and prompt_seconds > 0):
        raise UserError(f"--prompt-seconds {prompt_seconds:g} must be a number above 0.")
    if limit < 0:
        raise UserError(f"--limit {limit} must be above 0, or 0 for all pairs.")
    check_output(out)
    listed = read_pairs(pairs)
    listed = evenly_spaced(listed, limit or len(listed))
    facts = {
        **Checkpoint.open(checkpoint).facts,
        "pairs": str(pairs),
        "prompt_seconds": prompt_seconds,
        "batch_size": batch_size,
        "jax": f"{jax.__version__} {jax.default_backend()}",
    }
    data = {"name": str(pairs), "items": len(listed), "checksum": content_of(listed)}
    generator = Spectron.from_checkpoint(checkpoint)
    suite = LikelihoodSuite(
        facts=facts, judges=[], data=[data], features=generator.features, generator=generator, pairs=listed
    )
    return run_suite(suite, out)


@dataclasses.dataclass(kw_only=True)
class LikelihoodSuite(Suite):
    """Accuracies over pairs."""

    name = "likelihood"
    item_name = "Pair"
    max_rows = max_players = 100  # ours: pairs on the page, all with sounds
    intro = (
        "Of each pair of recordings one is right. Numbers are the right one's logarithmic likelihood in nats, per "
        "frame, per token and summed; a mark says that it is above the wrong one's."
    )

    generator: Spectron
    pairs: Sequence[Pair]

    def measure(self, work: Path) -> list[Record]:
        """Both likelihoods of every pair."""
        size, seconds = self.facts["batch_size"], self.facts["prompt_seconds"]

        def score(indices: range) -> list[Record]:
            files = [path for i in indices for path in (self.pairs[i].good, self.pairs[i].bad)]
            recordings = [wav.read(path, self.features.sample_rate) for path in files]
            likelihoods = log_likelihood(self.generator, recordings, seconds, batch_size=size)
            for path, each in zip(files, likelihoods, strict=True):
                if not each.num_frames:
                    raise UserError(f"{str(path)!r} is too short: no frame follows its prompt; leave its pair out.")
            return [
                {"id": self.pairs[i].id, "group": self.pairs[i].group, "good": good._asdict(), "bad": bad._asdict()}
                for i, good, bad in zip(indices, likelihoods[::2], likelihoods[1::2], strict=True)
            ]

        cache = ChunkCache(work / "likelihoods", {**self.facts, "data": self.data})
        return cache.records(len(self.pairs), size // 2, score, "pairs")

    def tables(self, records: Sequence[Record]) -> list[Table]:
        """Accuracies of all items and of every group."""
        return [accuracies(self.pairs, records)]

    def page_item(self, i: int, record: Record, with_media: bool) -> page.Item:
        """The two recordings and what they are compared by."""
        pair = self.pairs[i]
        good, bad = compared(record["good"]), compared(record["bad"])
        cells = {c: Cell(f"{good[c]:.2f}", good[c] > bad[c], f"wrong one {bad[c]:.2f}") for c in COLUMNS}
        files = {"right": pair.good, "wrong": pair.bad} if with_media else {}
        sounds = [(name, wav.read(path, self.features.sample_rate)) for name, path in files.items()]
        groups = [pair.group] if pair.group else []
        return page.Item(pair.id, cells, sounds, right=cells["both"].right, groups=groups)


def compared(likelihood: Mapping[str, Any]) -> dict[str, float]:
    """Column → what a pair is compared by."""
    each = Likelihood(**likelihood)
    return {"frames": each.per_frame, "text": each.per_token, "both": each.frames + each.text}


def accuracies(pairs: Sequence[Pair], records: Sequence[Record]) -> Table:
    """The table of all items and of every group; equal likelihoods count as half right."""
    groups: dict[str, dict[tuple[str, str], list[int]]] = {"all": {}}  # group → item → its pairs
    for i, pair in enumerate(pairs):
        for group in ("all", pair.group) if pair.group else ("all",):
            groups.setdefault(group, {}).setdefault((pair.group, pair.item or pair.id), []).append(i)
    if len(groups) == 2 and groups["all"] == groups[next(reversed(groups))]:
        del groups[next(reversed(groups))]  # the only group is all of them

    def right(i: int, column: str) -> float:
        good, bad = compared(records[i]["good"])[column], compared(records[i]["bad"])[column]
        return 0.5 if good == bad else float(good > bad)

    def figure(column: str, items: Iterable[list[int]]) -> Figure:
        hits = [[right(i, column) for i in members] for members in items]
        definition = f"{COLUMNS[column]} Share of items, each the mean of its pairs."
        return proportion(column, hits, definition, "its pairs")  # type: ignore[arg-type]

    rows = {name: {column: figure(column, items.values()) for column in COLUMNS} for name, items in groups.items()}
    return Table(
        "Speech-LM likelihood: the right one of two recordings", rows, "Equal likelihoods count as half right."
    )


def content_of(pairs: Sequence[Pair]) -> str:
    """A checksum of the pairs' names, groups and items, and of their recordings' bytes."""
    return checksum(
        content
        for pair in pairs
        for content in (repr((pair.id, pair.group, pair.item)).encode(), pair.good.read_bytes(), pair.bad.read_bytes())
    )
