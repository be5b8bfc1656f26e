"""The same results as JSON and as Markdown."""

import dataclasses
import json

from spectron.evaluation.metrics.intervals import average, proportion
from spectron.evaluation.results import Figure, Results, Table, markdown, meanings

RIGHT = proportion("Right", [[True], [True], [False], [True]], "The answer is there.")
LONG = average("Seconds", [1.0, 3.0], "How long it is.", "s")


def test_markdown_has_every_row_column_interval_and_definition():
    table = Table("QA", {"ours": {"right": RIGHT, "seconds": LONG}, "cascade": {"right": RIGHT}}, "One seed.")
    told = markdown(Results("x", [table], judges=[{"role": "ears", "name": "asr", "version": "3"}])).splitlines()
    assert told[0] == "**QA**"
    assert told[2] == "| | right | seconds | n |"
    assert told[4].startswith("| ours | 75.0 % (30.1 to 95.4) | 2 s (1 to 3) | 2–4 |")
    assert told[5] == "| cascade | 75.0 % (30.1 to 95.4) | – | 4 |"
    assert "One seed." in told
    assert sum("The answer is there. 95 % interval: Wilson's" in line for line in told) == 1
    assert told[-1] == "- ears: asr, version 3"


def test_what_differs_in_the_interval_alone_is_told_once():
    drawn = proportion("Right", [[True, False], [True, True]], "The answer is there.")
    first = Table("A", {"ours": {"right": RIGHT}, "drawn": {"right": drawn}, "again": {"right": RIGHT}})
    other = proportion("Right", [[True]], "Another thing.")
    told = meanings(first)["right"]
    assert told.startswith("The answer is there. 95 % interval: Wilson's, over items, or bootstrap over items")
    assert told.count("The answer") == 1 and told.endswith("seeds.")
    lines = markdown(Results("x", [first, first, Table("B", {"a": {"right": other}})])).splitlines()
    assert lines.count(f"- right: {told}") == 1
    assert "- right: Another thing. 95 % interval: Wilson's, over items." in lines
    plain = Figure("n", 1.0, 1, 1.0, 1.0, "No interval.")
    assert meanings(Table("C", {"a": {"n": plain}})) == {"n": "No interval."}


def test_columns_of_one_definition_share_a_line():
    figure = Figure("n", 1.0, 1, 1.0, 1.0, "Of these seconds.")
    table = Table(
        "C", {"a": {"0–1 s": figure, "1–2 s": figure}, "b": {"n": dataclasses.replace(figure, definition="Other.")}}
    )
    assert meanings(table) == {"0–1 s, 1–2 s": "Of these seconds.", "n": "Other."}


def test_json_holds_all_of_it():
    held = json.loads(Results("x", [Table("t", {"a": {"right": RIGHT}})], {"seed": 1}).to_json())
    assert held["facts"] == {"seed": 1}
    assert held["tables"][0]["rows"]["a"]["right"]["n"] == 4


def test_a_bar_in_a_name_does_not_end_its_cell():
    told = markdown(Results("x", [Table("t", {"a|b\nc": {"p|q": RIGHT}})])).splitlines()
    assert told[2] == "| | p\\|q | n |"
    assert told[4].startswith("| a\\|b c | 75.0 %")
