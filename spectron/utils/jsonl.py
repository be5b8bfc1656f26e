"""Files that users give: text, zipped or not, and one JSON object a line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectron.types import UserError


def read_text(path: Path) -> str:
    """A UTF-8 file, unzipped where it is named .gz. Raises UserError."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); give a UTF-8 text file.") from error


def read_objects(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line, file and line as an error's sentence begins, object) of every line that is not blank. Raises UserError."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # a U+2028 inside a text ends no line
        if not line.strip():
            continue
        place = f"{str(path)!r}, line {number},"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON ({error}); mend it.") from error
        if not isinstance(row, dict):
            raise UserError(f"{place} is no JSON object; write {{…}} on every line.")
        check_letters(row, place)
        yield number, place, row


def check_letters(row: Any, place: str) -> None:
    """Raise UserError for what JSON can hold and no file can: half of a character (a lone surrogate)."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place} holds half of a character ({error.object[error.start]!a}); mend it.") from error


def are_texts(answers: Any) -> bool:
    """Whether these are references that can be looked for: a text, or a list of some, none of them blank."""
    several = [answers] if isinstance(answers, str) else answers
    return isinstance(several, list) and bool(several) and all(isinstance(x, str) and x.strip() for x in several)
