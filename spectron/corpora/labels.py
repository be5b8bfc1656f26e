"""Labels on disk: what a recogniser wrote down, one JSON object a line, a file beside each shard."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spectron.types import UserError
from spectron.utils.files import write_bytes


class Label(NamedTuple):
    """The text of one utterance.

    score: log-probability of the whole; tokens: how many labels it has; seconds: the utterance's length;
    labelled_by: the recogniser's name, "" when a human wrote it.
    """

    id: str
    text: str
    score: float
    tokens: int
    seconds: float
    labelled_by: str = ""


def labels_path(folder: str | Path, shard: int) -> Path:
    """Where the labels of a shard are."""
    return Path(folder) / f"shard-{shard:05d}.jsonl"


def write_labels(path: str | Path, labels: Iterable[Label]) -> None:
    """Write a file of labels, whole or not at all; the same labels give the same bytes. Raises UserError."""
    lines = (json.dumps(label._asdict(), ensure_ascii=True) + "\n" for label in labels)
    write_bytes(Path(path), "".join(lines).encode())


def read_labels(path: str | Path) -> list[Label]:
    """The labels of a file, in order. Raises UserError for a file that is missing or broken."""
    labels = []
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    labels.append(_label(json.loads(line)))
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{str(path)!r}, line {number}, is no label ({error}); label that shard again."
                    ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Labels {str(path)!r} cannot be read ({error}); label that shard again.") from error
    return labels


def _label(row: dict) -> Label:
    return Label(
        id=str(row["id"]),
        text=str(row["text"]),
        score=float(row["score"]),
        tokens=int(row["tokens"]),
        seconds=float(row["seconds"]),
        labelled_by=str(row.get("labelled_by", "")),
    )


def clean_text(text: str) -> str:
    """Words separated by single spaces, composed (NFC), without control, unassigned or surrogate characters."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cn", "Cs"))
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())
