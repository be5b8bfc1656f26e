"""Text files as users have them: byte order marks, line ends, other encodings, tables, JSON."""

import gzip
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron.data.question_sets import read_questions
from spectron.types import UserError
from spectron.utils.text_files import (
    EncodingError,
    read_json,
    read_lines,
    read_objects,
    read_rows,
    read_table,
    read_text,
)

ODD = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven\x1deight\x1enine"  # str.splitlines cuts at all of these


def put(tmp_path, content, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("", []),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\nb", ["a", "", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\rb\r", ["a", "b"]),
        ("a\r\r\nb", ["a", "", "b"]),
        ("\ufeffa\nb", ["a", "b"]),
        ("\ufeffa\n\ufeffb", ["a", "b"]),  # two files joined
        (f"{ODD}\nb", [ODD, "b"]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_lines_end_at_line_ends_alone(tmp_path, content, lines, zipped):
    path = put(tmp_path, gzip.compress(content.encode()) if zipped else content, "a.txt.gz" if zipped else "a.txt")
    assert list(read_lines(path)) == list(enumerate(lines, 1))
    assert read_text(path).removesuffix("\n").split("\n") == (lines or [""])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("good\ncaf\xe9\n".encode("latin-1"), r"line 2, is not UTF-8 .*Latin-1"),
        ("good\n\u201chi\u201d\n".encode("cp1252"), r"line 2, is not UTF-8 .*Windows-1252"),
        ("один два\n".encode("cp1251"), r"line 1, is not UTF-8 .*Windows-1251"),
        ("hello\nthere".encode("utf-16"), "is UTF-16"),
        ("hello\nthere".encode("utf-16-le"), r"line 1, is not UTF-8 .*UTF-16"),
        ("hello\nthere".encode("utf-16-be"), r"line 1, is not UTF-8 .*UTF-16"),
        ("hello".encode("utf-32"), "is UTF-32"),
        (b"good\nbad \0\0 and more text\n", r"line 2, .*NUL"),
        (gzip.compress(b"hello", mtime=0), "gzipped"),
        (b"PK\x03\x04\x14\0\x06", "spreadsheet"),
        ("good\né cut é".encode()[:-1], r"line 2, .*cut within a character"),
    ],
)
def test_other_encodings_are_named_and_never_replaced(tmp_path, content, words):
    path = put(tmp_path, content)
    for read in (read_text, lambda path: list(read_lines(path)), lambda path: list(read_rows(path))):
        with pytest.raises(EncodingError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path):
    for name in ("gone.txt", "gone.txt.gz", "a\0b"):
        with pytest.raises(UserError, match="cannot be read"):
            read_text(tmp_path / name)
    content = gzip.compress("".join(f"line {i}\n" for i in range(5000)).encode())
    for damaged in (content[: len(content) // 2], b"plain", bytes([*content[:40], *bytes(20), *content[60:]])):
        with pytest.raises(UserError, match="cannot be read"):
            list(read_lines(put(tmp_path, damaged, "a.txt.gz")))


def test_lines_that_are_not_objects_are_named(tmp_path):
    path = put(tmp_path, '{"a": "\\u00e9"}\n\n{"a": ["x", "cut \\ud83d"]}\n', "a.jsonl")
    lines = read_objects(path)
    assert next(lines)[2] == {"a": "é"}
    with pytest.raises(UserError, match=r"a\.jsonl', line 3, has a lone surrogate \('\\ud83d'\)"):
        next(lines)
    for content in ("[" * 100_000, "1" * 5000, "{", '"x"', "[1]", "nul"):
        with pytest.raises(UserError, match=r"line 1, is not"):
            list(read_objects(put(tmp_path, content)))
        assert list(read_rows(put(tmp_path, content))) == [(1, None)]
    with pytest.raises(UserError, match=r"is not JSON \(it is nested too deeply\)"):
        read_json(put(tmp_path, "[" * 100_000))


def test_questions_of_half_a_character_are_named(tmp_path):
    path = put(tmp_path, json.dumps([{"question": "who", "answers": ["\ud83d"], "url": "x"}]), "a.json")
    with pytest.raises(UserError, match="question 1, has a lone surrogate"):
        read_questions(path)


def test_tables(tmp_path):
    rows = [{"audio": "a", "text": ODD}, {"audio": "b", "text": "2"}]
    tsv = put(tmp_path, f"\ufeffaudio\ttext\r\na\t{ODD}\r\n\t\r\nonly one\r\n\r\nb\t2", "a.TSV")
    assert list(read_table(tsv)) == [(0, dict.fromkeys(rows[0])), (2, rows[0]), (4, None), (6, rows[1])]
    csv = put(tmp_path, f'\ufeffaudio,text\na,{ODD}\n"b","say ""x"",\n2"\n', "a.csv")
    assert [row for _, row in read_table(csv)][1:] == [rows[0], {"audio": "b", "text": 'say "x",\n2'}]
    assert list(read_table(put(tmp_path, "", "b.csv"))) == []
    assert [row for _, row in read_table(put(tmp_path, "a\tb\n1\t" + "x" * 200_000, "c.tsv"))][1]["b"] == "x" * 200_000


@pytest.mark.parametrize(("stray", "after"), [('b,"x" y', []), ('b,"x', ['c,"y"'])])
def test_a_wrong_quotation_takes_no_line_with_it(tmp_path, stray, after):
    path = put(tmp_path, "\n".join(["audio,text", "a,1", stray, *after, "d,4", ""]), "a.csv")
    found = dict(read_table(path))
    assert found[2] == {"audio": "a", "text": "1"} and found[3] is None
    assert sorted(found) == [0, *range(2, 5 + len(after))]
    assert found[4 + len(after)] == {"audio": "d", "text": "4"}


def test_a_quotation_without_end_is_named(tmp_path):
    path = put(tmp_path, 'audio,text\na,1\nb,"2\nc,3\nd,4\n', "a.csv")
    with pytest.raises(UserError, match=r"a\.csv', line 3, opens a quotation that never ends"):
        list(read_table(path))


PIECES = st.sampled_from(
    [b"\n", b"\r\n", b"\r", b"\t", b",", b'"', b"\xef\xbb\xbf", "\u2028\x85\x0b\x1c".encode(), b"\xff", b"\0", b"{}"]
    + [b'{"audio": "a", "text": "b"}', b"a\tb", b"a,b", "é".encode(), b"\\ud800", b"NaN", b" "]
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES | st.binary(max_size=4), max_size=12), st.sampled_from(["tsv", "csv", "jsonl"]))
def test_no_line_is_ever_lost(tmp_path, pieces, kind):
    head = {"tsv": b"a\tb\n", "csv": b"a,b\n", "jsonl": b""}[kind]
    content = head + b"".join(pieces)
    path = put(tmp_path, content, f"a.{kind}")
    try:
        found = list(read_rows(path) if kind == "jsonl" else read_table(path))
    except UserError as error:
        if str(path) not in str(error):
            raise
        return
    lines = enumerate(re.split("\r\n|\n|\r", content.decode()), 1)
    blank = ' \t,"\ufeff' if kind != "jsonl" else "\ufeff"
    wanted = {number for number, line in lines if line.strip().strip(blank).strip()} - ({1} if head else set())
    taken = {number for number, _ in found}
    if kind == "csv":  # a quotation may hold line ends: its lines are one row
        held = [cell for _, row in found if row for cell in row.values()]
        wanted = {n for n in wanted if n in taken} if any("\n" in (cell or "") for cell in held) else wanted
    assert wanted <= taken
