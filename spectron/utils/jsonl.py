"""Readers of users' files: text, plain or gzipped, and JSONL."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from spectron.errors import UserError


def read_text(path: Path) -> str:
    """Read a UTF-8 file, gzipped if its name ends in .gz. Raises UserError."""
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}); give a UTF-8 text file.") from error


def read_objects(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, "FILE, line N," for error messages, object) of every non-blank line. Raises UserError."""
    for number, line in enumerate(read_text(path).split("\n"), 1):  # not splitlines(): U+2028 is part of a text
        if not line.strip():
            continue
        place = f"{str(path)!r}, line {number},"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON ({error}); correct it.") from error
        if not isinstance(row, dict):
            raise UserError(f"{place} is not a JSON object; write {{…}} on every line.")
        check_letters(row, place)
        yield number, place, row


def check_letters(row: Any, place: str) -> None:
    """Raise UserError for a lone surrogate, which JSON can express and UTF-8 cannot."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place} has a lone surrogate ({error.object[error.start]!a}); correct it.") from error


def are_texts(answers: Any) -> bool:
    """Whether `answers` is a non-blank text or a non-empty list of such texts."""
    texts = [answers] if isinstance(answers, str) else answers
    return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) and text.strip() for text in texts)


def numbered_rows(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """(number of the line, its object) of every line that is not blank; None for one that holds no JSON object."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            yield number, row if isinstance(row, dict) else None
