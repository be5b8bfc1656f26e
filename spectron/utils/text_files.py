"""Text files that users supply: UTF-8, with or without a byte order mark, plain or gzipped; tables; JSON.

Lines end at \\n, \\r\\n or \\r and nowhere else: str.splitlines also cuts at U+2028, U+0085, \\x0b and others, which
are part of a text. No byte is replaced: a file in another encoding is an error that names line and likely encoding.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from spectron.errors import UserError

# First bytes → what a file is that is not UTF-8 text. UTF-32 comes first: its mark starts with that of UTF-16.
_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet"),
    (b"\x1f\x8b", "gzipped without .gz at the end of its name"),
)
BOM = "\ufeff"  # byte order mark; it also starts a later line if files were joined
_BOM = BOM.encode()
_BOM_BYTES = len(_BOM)


class EncodingError(UserError):
    """A file is not UTF-8 text."""


def kind_of(path: Path) -> str:
    """The suffix in lower case, without .gz: ".jsonl" for a.JSONL.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of every line, read as it is needed.

    Raises UserError for a file that cannot be read, and EncodingError for one that is not UTF-8.
    """
    return ((number, line) for number, _, line in placed_lines(path))


def placed_lines(path: str | Path) -> Iterator[tuple[int, int, str]]:
    """(number from 1, position of its first byte in the unzipped file, line) of every line; as read_lines."""
    path = Path(path)
    number = start = 0
    try:
        with _opened(path) as file:
            for raw in file:
                if not number:
                    _check_mark(path, raw)
                for part in raw.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
                    number += 1
                    line = _decoded(part, path, number)
                    yield number, start + (_BOM_BYTES if part.startswith(_BOM) else 0), line
                    start += len(part) + 1  # the end of a part is one byte
                start += len(raw) - len(raw.removesuffix(b"\n").removesuffix(b"\r")) - 1
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, number, error) from error


def read_text(path: str | Path) -> str:
    """The whole text, its lines separated by \\n. Raises UserError and EncodingError as read_lines does."""
    path = Path(path)
    try:
        with _opened(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, 0, error) from error
    _check_mark(path, content)
    lines = re.split(rb"\r\n|\n|\r", content)
    return "\n".join(_decoded(line, path, number) for number, line in enumerate(lines, 1))


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _unreadable(path: Path, lines: int, error: Exception) -> UserError:
    after = f" after line {lines}" if lines else ""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"{str(path)!r} cannot be read{after} ({reason}); check the path, or copy the file again.")


def _check_mark(path: Path, content: bytes) -> None:
    for mark, kind in _MARKS:
        if content.startswith(mark):
            raise EncodingError(f"{str(path)!r} is {kind}; save it as UTF-8 text.")


def _decoded(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        kind = _likely_encoding(line, error)
    else:
        if "\0" not in text:
            return text.removeprefix(BOM)
        kind = "UTF-16" if 3 * line.count(0) > len(line) else "binary, or damaged: it has a NUL byte"
    raise EncodingError(f"{str(path)!r}, line {number}, is not UTF-8 text (it is probably {kind}); save it as UTF-8.")


def _likely_encoding(line: bytes, error: UnicodeDecodeError) -> str:
    """What a line that is not UTF-8 probably is; ours: by which bytes it has."""
    if error.reason == "unexpected end of data" and (error.end > error.start + 1 or not line[: error.start].isascii()):
        return "cut within a character"
    if 3 * line.count(0) > len(line):
        return "UTF-16"
    if line.count(0) or re.search(rb"[\x01-\x08\x0e-\x1a]", line):
        return "binary"
    if re.search(rb"[\x80-\xff]{4}", line):
        return "of a script of its own, such as GBK, Shift-JIS or Windows-1251"
    return "Windows-1252" if re.search(rb"[\x80-\x9f]", line) else "Latin-1"


# Tables.

Row = tuple[int, "dict[str, Any] | None"]  # number of the line, and its cells or object; None for a broken line


def read_table(path: str | Path) -> Iterator[Row]:
    """The rows of a table with a header: TSV without quoting, or CSV (RFC 4180) for every other suffix.

    Blank lines are left out. A line with more or fewer cells than the header is None, and so is every line of a wrong
    quotation. The first item is the header: (0, its names as keys). Raises UserError as read_lines does.
    """
    path = Path(path)
    rows = _tab_rows(path) if kind_of(path) == ".tsv" else _comma_rows(path)
    names: list[str] = []
    for number, cells in rows:
        if cells is not None and not any(cell.strip() for cell in cells):
            continue
        if not names:
            if cells is None:
                raise UserError(f"{str(path)!r}, line {number}, is a broken header; name the columns there.")
            names = [name.strip() for name in cells]
            yield 0, dict.fromkeys(names)
        else:
            complete = cells is not None and len(cells) == len(names)
            yield number, dict(zip(names, cells or (), strict=True)) if complete else None


def _tab_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in read_lines(path))


def _comma_rows(path: Path) -> Iterator[tuple[int, list[str] | None]]:
    """(first line, cells) of each row; each line of a row that breaks the rules of quoting comes alone, as None."""
    taken: list[int] = []  # lines of the current row
    ended = False

    def lines() -> Iterator[str]:
        nonlocal ended
        for number, line in read_lines(path):
            taken.append(number)
            yield f"{line}\n"
        ended = True

    reader = csv.reader(lines(), strict=True)
    while True:
        taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if ended:
                raise UserError(
                    f"{str(path)!r}, line {taken[0]}, opens a quotation that never ends; correct it."
                ) from error
            yield from ((number, None) for number in taken)
            continue
        yield taken[0], cells


# JSON.


def read_json(path: str | Path, letters: bool = True) -> Any:
    """The value in a JSON file. Raises UserError if it cannot be read, is not JSON, or has a lone surrogate.

    letters: False leaves the check for lone surrogates to the caller, who can name the place.
    """
    try:
        value = parse_json(read_text(path))
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON ({error}); correct it.") from error
    if letters:
        check_letters(value, repr(str(path)))
    return value


def read_objects(path: str | Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, "FILE, line N," for error messages, object) of every non-blank line of JSONL. Raises UserError."""
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{str(path)!r}, line {number},"
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{place} is not JSON ({error}); correct it.") from error
        if not isinstance(row, dict):
            raise UserError(f"{place} is not a JSON object; write {{…}} on every line.")
        check_letters(row, place)
        yield number, place, row


def read_rows(path: str | Path) -> Iterator[Row]:
    """The objects of a JSONL file, without blank lines; None for a line that holds no JSON object. Raises UserError as
    read_lines does."""
    for number, line in read_lines(path):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError:
                row = None
            yield number, row if isinstance(row, dict) else None


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError if it is not JSON."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


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
