"""Statistics of a folder of shards, read from the indexes: report.json, report.md and report.html."""

from __future__ import annotations

import collections
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spectron.corpora.report_page import markdown, page
from spectron.corpora.shard_jobs import read_plan
from spectron.data.shards import Index, finished_shards
from spectron.types import UserError
from spectron.utils.files import write_bytes

NAMED = 20  # ours: number of names listed per reason; the shards' indexes have all of them
BINS = 40  # ours: bars of a histogram
NOTE = "note: "  # prefix of a reason for which nothing was left out


class _Tally:
    """Sums over the indexes."""

    def __init__(self) -> None:
        self.seconds: list[np.ndarray] = []
        self.scores: list[np.ndarray] = []
        self.ids: list[np.ndarray] = []
        self.speakers: dict[str, float] = collections.defaultdict(float)
        self.books: set[str] = set()
        self.recordings: set[str] = set()
        self.labelled_by: collections.Counter[str] = collections.Counter()
        self.rejected: dict[str, tuple[int, list[str]]] = {}
        self.texts = self.words = self.tokens = 0

    def add(self, index: Index) -> None:
        """Add one shard."""
        seconds = index.numbers("num_samples") / np.maximum(index.numbers("sample_rate"), 1)
        tokens = index.numbers("tokens")
        texts = index.strings("text")
        self.seconds.append(seconds)
        scored = np.isfinite(index.numbers("score")) & (tokens > 0)
        self.scores.append(index.numbers("score")[scored] / tokens[scored])
        self.ids.append(name_hashes(index.strings("id")))
        for speaker, length in zip(index.strings("speaker"), seconds.tolist(), strict=True):
            self.speakers[speaker] += length
        self.books.update(filter(None, index.strings("book")))
        self.recordings.update(index.strings("recording"))
        self.labelled_by.update(
            name or "a human" for name, text in zip(index.strings("labelled_by"), texts, strict=True) if text
        )
        self.texts += sum(map(bool, texts))
        self.words += sum(len(text.split()) for text in texts)
        self.tokens += int(tokens.sum())
        for reason, names in index.rejected().items():
            self.reject(reason, names)

    def reject(self, reason: str, names: list[str]) -> None:
        """Add what was left out, or is unusual, for one reason."""
        count, first = self.rejected.get(reason, (0, []))
        self.rejected[reason] = (count + len(names), (first + names)[:NAMED])


def name_hashes(names: list[str]) -> np.ndarray:
    """uint64 [N]: a hash of each name, to find duplicates in little memory."""
    return np.asarray([int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest()) for n in names], np.uint64)


def summarise(folder: str | Path, left_out: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """The report of a folder of shards. Raises UserError.

    left_out: reason → names of what was left out before any shard was written.
    """
    folder = Path(folder)
    paths = finished_shards(folder)
    tally = _Tally()
    for path in paths:
        index = Index(path)
        tally.add(index)
        index.close()
    for reason, names in (left_out or {}).items():
        tally.reject(reason, list(names))
    seconds = np.concatenate(tally.seconds)
    ids = np.concatenate(tally.ids)
    reasons = {reason: {"count": n, "first": names} for reason, (n, names) in sorted(tally.rejected.items())}
    try:
        made_by = read_plan(folder)
    except (OSError, ValueError):
        made_by = {}
    return {
        "shards": len(paths),
        "utterances": len(seconds),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "speakers": len(tally.speakers),
        "books": len(tally.books),
        "recordings": len(tally.recordings),
        "with_text": tally.texts,
        "words": tally.words,
        "tokens": tally.tokens,
        "labelled_by": dict(sorted(tally.labelled_by.items())),
        "duplicate_ids": len(ids) - len(np.unique(ids)),
        "seconds": distribution(seconds),
        "score_per_token": distribution(np.concatenate(tally.scores)),
        "minutes_per_speaker": distribution(np.asarray(list(tally.speakers.values())) / 60),
        "rejected": {reason: group for reason, group in reasons.items() if not reason.startswith(NOTE)},
        "notes": {reason.removeprefix(NOTE): group for reason, group in reasons.items() if reason.startswith(NOTE)},
        "made_by": made_by,
    }


def distribution(values: np.ndarray) -> dict[str, Any]:
    """n, mean, percentiles and a histogram."""
    if not len(values):
        return {"n": 0}
    low = float(values.min())
    high = float(values.max())
    if round(high, 4) == round(low, 4):  # (almost) equal values: too narrow a range for bins
        high = low + 1.0
    counts, edges = np.histogram(values, BINS, (low, high))
    marks = np.percentile(values, (0, 5, 25, 50, 75, 95, 100)).tolist()
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    return {
        "n": len(values),
        "mean": round(math.fsum(values.tolist()) / len(values), 4),
        **{name: round(mark, 4) for name, mark in zip(names, marks, strict=True)},
        "histogram": {"edges": np.round(edges, 4).tolist(), "counts": counts.tolist()},
    }


def write_report(
    folder: str | Path, left_out: Mapping[str, list[str]] | None = None, out: str | Path | None = None
) -> dict[str, Any]:
    """Summarise a folder; write report.json, report.md and report.html into `out` (default: the folder).

    left_out: as in `summarise`; None takes it from the folder's existing report. Raises UserError.
    """
    out = Path(out or folder)
    if left_out is None:
        left_out = _earlier_left_out(Path(folder))
    report = summarise(folder, left_out)
    report["left_out_before"] = dict(left_out)
    write_bytes(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    write_bytes(out / "report.md", markdown(report).encode())
    write_bytes(out / "report.html", page(report).encode())
    return report


def _earlier_left_out(folder: Path) -> dict[str, list[str]]:
    try:
        return json.loads((folder / "report.json").read_text())["left_out_before"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{str(folder / 'report.json')!r} is broken ({error}); delete it.") from error
