"""Label files: the transcripts of a shard's utterances, one JSON object per line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from spectron.types import UserError
from spectron.utils.files import write_bytes
from spectron.utils.text_files import read_rows


class Label(NamedTuple):
    """The transcript of one utterance."""

    id: str
    text: str
    score: float  # log-probability of the whole transcript
    tokens: int  # number of output labels
    seconds: float  # length of the utterance
    labelled_by: str = ""  # the recogniser's name; "" for a human transcript


def labels_path(folder: str | Path, shard: int) -> Path:
    """The label file of a shard."""
    return Path(folder) / f"shard-{shard:05d}.jsonl"


def write_labels(path: str | Path, labels: Iterable[Label]) -> None:
    """Write a label file atomically; the same labels give the same bytes. Raises UserError."""
    lines = (json.dumps(label._asdict(), ensure_ascii=True) + "\n" for label in labels)
    write_bytes(Path(path), "".join(lines).encode())


def read_labels(path: str | Path) -> list[Label]:
    """Read a label file. Raises UserError if it is missing or malformed."""
    labels = []
    for number, row in read_rows(path):
        try:
            if row is None:
                raise ValueError("not a JSON object")
            labels.append(_label(row))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{str(path)!r}, line {number}, is not a label ({error}); label that shard again."
            ) from None
    return labels


def _label(row: dict) -> Label:
    label = Label(
        id=str(row["id"]),
        text=str(row["text"]),
        score=float(row["score"]),
        tokens=int(row["tokens"]),
        seconds=float(row["seconds"]),
        labelled_by=str(row.get("labelled_by", "")),
    )
    (label.id + label.text + label.labelled_by).encode()  # raises ValueError for a lone surrogate
    return label


def clean_text(text: str) -> str:
    """Text in NFC with single spaces, without control, unassigned and surrogate characters."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cn", "Cs"))
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())
