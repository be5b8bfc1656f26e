import gzip
import json

import pytest

from spectron.data.question_sets import read_questions
from spectron.types import UserError
from spectron.utils.text_files import read_objects


def test_lines_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "\\u00e9"}\n\n{"a": ["x", "cut \\ud83d"]}\n')
    lines = read_objects(path)
    assert next(lines)[2] == {"a": "é"}
    with pytest.raises(UserError, match=r"a\.jsonl', line 3, has a lone surrogate \('\\ud83d'\)"):
        next(lines)


def test_a_damaged_zip_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(json.dumps({"a": list(range(500))}).encode()))
    content[40:60] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        list(read_objects(path))


def test_questions_of_half_a_character_are_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"question": "who", "answers": ["\ud83d"], "url": "x"}]))
    with pytest.raises(UserError, match="question 1, has a lone surrogate"):
        read_questions(path)
