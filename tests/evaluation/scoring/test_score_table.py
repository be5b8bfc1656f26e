"""Several systems' results in one table."""

import json

import pytest
from evaluation.fakes import LetterLM

from spectron.evaluation.scoring.items import from_manifest
from spectron.evaluation.scoring.metrics import Perplexity, Questions
from spectron.evaluation.scoring.score import joined, score
from spectron.types import UserError


def manifest(folder, record):
    """One item; the path of the file."""
    (folder / "items.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    return folder / "items.jsonl"


def test_several_systems_in_one_table(tmp_path):
    path = manifest(tmp_path, {"answers": ["Rome"], "ours": "rome", "theirs": "paris"})
    for name in ("ours", "theirs"):
        items = from_manifest(path, Questions(None).roles, {"transcript": name})
        score(Questions(None), items, tmp_path / name, name)
    together = joined([tmp_path / "ours", tmp_path / "theirs" / "results.json"])
    assert {row: cells["exact"].value for row, cells in together.tables[0].rows.items()} == {"ours": 1, "theirs": 0}
    assert list(joined([tmp_path / "ours", tmp_path / "ours"]).tables[0].rows) == ["ours"]  # the same twice is one
    text = (tmp_path / "theirs" / "results.json").read_text().replace('"theirs"', '"ours"')
    (tmp_path / "theirs" / "results.json").write_text(text)
    rows = joined([tmp_path / "ours", tmp_path / "theirs"]).tables[0].rows
    assert {row: cells["exact"].value for row, cells in rows.items()} == {"ours": 1, "ours, theirs": 0}
    (tmp_path / "d" / "theirs").mkdir(parents=True)
    (tmp_path / "d" / "theirs" / "results.json").write_text(text.replace('"n": 1', '"n": 2'))
    with pytest.raises(UserError, match="the row 'ours, theirs' of another file; rename its folder"):
        joined([tmp_path / "ours", tmp_path / "theirs", tmp_path / "d" / "theirs"])
    with pytest.raises(UserError, match="holds no results"):
        joined([tmp_path])


def test_rows_of_different_judges_do_not_stand_in_one_table(tmp_path):
    path = manifest(tmp_path, {"transcript": "a"})
    for name in ("1", "2"):
        metric = Perplexity(LetterLM(), None)
        metric.judges[0] = {**metric.judges[0], "version": name}
        score(metric, from_manifest(path, metric.roles), tmp_path / name, name)
    with pytest.raises(UserError, match="the same language model"):
        joined([tmp_path / "1", tmp_path / "2"])
