"""prepared.json: what `spectron data inspect` measured of a folder of recordings, for configs/own.py."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

from spectron.types import UserError
from spectron.utils.text_files import read_json

FILE, MANIFEST, PIECES = "prepared.json", "manifest.jsonl", "pieces.model"
TRAIN, HELD_OUT = "train", "held_out"  # splits of the manifest


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Facts about prepared recordings.

    hours, recordings: of the training split. speakers: 0 if unknown. shortest: seconds; all but some 5 % of the time
    is in longer recordings. longest: seconds. thirds: two lengths that divide the recordings into thirds. max_tokens:
    tokens of the longest text, with eos. characters: the vocabulary if there is too little text for pieces, else "".
    """

    hours: float
    recordings: int
    held_out: int
    speakers: int
    shortest: float
    longest: float
    thirds: tuple[float, ...]
    max_tokens: int
    characters: str

    @property
    def prompt_seconds(self) -> float:
        """Length of a prompt. Ours: 2 s, or less, so that half as much can follow in all but some 5 % of the time."""
        return math.floor(50 * min(2.0, max(0.5, 0.66 * self.shortest))) / 50

    def to_json(self) -> str:
        """The content of prepared.json."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def load_prepared(folder: str | Path) -> Prepared:
    """The facts of a prepared folder. Raises UserError if it is not one."""
    path = Path(folder) / FILE
    how = "give data.root the --out folder of `spectron data inspect RECORDINGS --out FOLDER`"
    try:
        if not path.is_file():
            raise UserError(f"{str(folder)!r} has no {FILE}; {how}.")
        prepared = Prepared(**read_json(path))
        return dataclasses.replace(prepared, thirds=tuple(map(float, prepared.thirds)))
    except (ValueError, TypeError) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); {how} again.") from error
