"""The table of written and spoken forms, and what is right by every scorer that compares them."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.evaluation.metrics.spoken_forms import readings
from spectron.evaluation.metrics.text_scores import SCORERS
from spectron.evaluation.metrics.wer import english_words
from spectron.utils.number_words import to_digits

TABLE = [
    json.loads(line) for line in Path(__file__).with_name("spoken_forms.jsonl").read_text(encoding="utf-8").splitlines()
]
KINDS = ("month and day", "date", "decade", "roman numeral", "initials", "currency", "unit", "ordinal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scorer", ["contains", "exact"])
def test_written_and_spoken_forms_are_the_same_both_ways(kind, scorer):
    rows = [row for row in TABLE if row["about"] == kind]
    assert {row["same"] for row in rows} == {True, False}
    wrong = [
        (reference, said)
        for row in rows
        for reference, said in ((row["written"], row["spoken"]), (row["spoken"], row["written"]))
        if SCORERS[scorer]([reference], said) is not row["same"]
    ]
    assert not wrong
    assert set(KINDS) == {row["about"] for row in TABLE}


@pytest.mark.parametrize(
    ("references", "said"),
    [
        (["July 4"], "it was signed on the fourth of July in seventeen seventy six"),
        (["World War II"], "He fought in World War two."),
        (["J.K. Rowling"], "the books were written by j k rowling"),
        (["AJ Styles"], "it was a j styles"),
        (["JK Rowling"], "by a j k rowling"),
        (["1960s"], "in the late nineteen sixties"),
        (["Henry VIII"], "Henry the Eighth's second wife"),
        (["$5 million"], "about five million dollars a year"),
        (["five kilometres"], "it is 5km away"),
    ],
)
def test_a_form_is_found_inside_an_answer(references, said):
    assert SCORERS["contains"](references, said)
    assert not SCORERS["exact"](references, said)


@pytest.mark.parametrize(
    ("reference", "said"),
    [("1", "Well I think so"), ("one", "It was what I said"), ("5", "May I go"), ("10", "It is a mix, X-rayed")],
)
def test_the_pronoun_and_other_letters_are_not_numerals(reference, said):
    assert not SCORERS["contains"]([reference], said)


def test_the_papers_scorer_and_word_errors_are_as_published():
    """What is compared with published figures: Spectron's own scorer and Whisper's normaliser."""
    assert not SCORERS["substring"](["July 4"], "july fourth")
    assert not SCORERS["substring"](["1960s"], "the nineteen sixties")
    pytest.importorskip("transformers", reason="the extra 'eval' is not installed")
    assert english_words("World War II, July 4th") == ["world", "war", "ii", "july", "4th"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet="aijkIVX0159 .,'$°-th ofuly", max_size=24))
def test_every_text_has_readings_and_equals_itself(text):
    first = readings(text)[0]
    assert all(isinstance(word, str) and word for words in readings(text) for word in words)
    assert SCORERS["exact"]([text], text) is bool(first)


@pytest.mark.parametrize(
    ("spoken", "digits"),
    [
        ("nineteen sixties", "1960s"),
        ("the roaring twenties", "the roaring 20s"),
        ("eighteen hundreds", "1800s"),
        ("two thousands", "2000s"),
        ("tens of thousands", "tens of thousands"),
        ("two hundredth", "200th"),
        ("thousandth", "1000th"),
    ],
)
def test_decades_and_large_ordinals_are_numbers(spoken, digits):
    assert " ".join(to_digits(spoken.split())) == digits
