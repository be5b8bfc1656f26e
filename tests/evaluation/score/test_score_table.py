"""Several systems' results in one table."""

import json

import pytest
from evaluation.fakes import LetterLM

from spectron.evaluation.judges.base import facts
from spectron.evaluation.metrics.intervals import average
from spectron.evaluation.results import Results, Table
from spectron.evaluation.score.items import from_manifest
from spectron.evaluation.score.metrics import Perplexity, Questions
from spectron.evaluation.score.suite import score
from spectron.evaluation.score.table import joined
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


def written(folder, row, judges, title="Sound", column="DNSMOS overall", told=None, value=1.0):
    """What a command might have left: one figure."""
    folder.mkdir(parents=True)
    table = Table(title, {row: {column: average(column, [value, 2.0], "How good.", "")}})
    (folder / "results.json").write_text(Results("score x", [table], told or {}, judges).to_json())
    return folder


def test_columns_of_one_system_have_judges_of_their_own_and_share_its_row(tmp_path):
    dnsmos, pesq, stoi = (facts("speech quality", name, "1", {}, name) for name in ("dnsmos", "pesq", "stoi"))
    made = [written(tmp_path / system / "dnsmos", system, [dnsmos]) for system in ("ours", "theirs")]
    made.append(written(tmp_path / "ours" / "pesq", "ours", [pesq], column="PESQ"))
    made.append(written(tmp_path / "ours" / "stoi", "ours", [stoi], column="STOI"))
    (table,) = joined(made).tables
    assert {row: list(cells) for row, cells in table.rows.items()} == {
        "ours": ["DNSMOS overall", "PESQ", "STOI"],
        "theirs": ["DNSMOS overall"],
    }
    other = written(tmp_path / "other", "other", [{**pesq, "version": "2"}], column="PESQ")
    with pytest.raises(UserError, match="the same speech quality"):
        joined([*made, other])


def test_other_figures_of_a_column_are_another_row(tmp_path):
    dnsmos = facts("speech quality", "dnsmos", "1", {}, "")
    made = [written(tmp_path / str(i), "ours", [dnsmos], value=float(i)) for i in range(2)]
    assert list(joined(made).tables[0].rows) == ["ours", "ours, 1"]


@pytest.mark.parametrize(("title", "column"), [("Words", "WER"), ("Answers", "contains")])
def test_rows_that_nobody_heard_are_named_beside_those_that_were(tmp_path, title, column):
    ear = facts("speech recogniser", "ctc a", "1", {}, "a")
    heard = written(tmp_path / "heard", "heard", [ear], title, column)
    given = written(tmp_path / "given", "given", [], title, column, told={"judged": "transcript"}, value=3.0)
    together = joined([heard, given])
    assert together.tables[0].note == "Texts as given, not heard by a speech recogniser as other rows may be: given."
    assert together.facts == {"joined": [{}, {"judged": "transcript"}]}
    assert joined([given, given]).tables[0].note == ""
    moved = written(tmp_path / "moved", "moved", [{**ear, "name": "ctc b"}], title, column)
    assert joined([heard, moved]).tables[0].note == ""
    other = written(tmp_path / "other", "other", [{**ear, "checksum": "b"}], title, column)
    with pytest.raises(UserError, match="the same speech recogniser"):
        joined([heard, other])


def test_a_recogniser_is_nothing_to_voices(tmp_path):
    ear, voices = facts("speech recogniser", "ctc a", "1", {}, "a"), facts("speaker encoder", "r", "1", {}, "r")
    suite = written(tmp_path / "suite", "ours", [ear, voices], "Speaker similarity", "Speaker similarity")
    alone = written(tmp_path / "alone", "theirs", [voices], "Speaker similarity", "Speaker similarity")
    assert joined([suite, alone]).tables[0].note == ""


def test_texts_in_their_case_do_not_stand_beside_lower_case(tmp_path):
    path = manifest(tmp_path, {"transcript": "A"})
    for name, kept in (("kept", True), ("lower", False)):
        metric = Perplexity(LetterLM(), None, kept)
        score(metric, from_manifest(path, metric.roles), tmp_path / name, name)
    said = r"the same case \('kept', 'lower'\); score them again with one"
    with pytest.raises(UserError, match=said):
        joined([tmp_path / "kept", tmp_path / "lower"])
    suite = written(tmp_path / "suite", "ours", [], "Log-perplexity", "log-ppl per token")
    with pytest.raises(UserError, match=said):  # of a suite's results, which are of lower case without saying so
        joined([tmp_path / "kept", suite])
    assert len(joined([tmp_path / "lower", suite]).tables[0].rows) == 2
