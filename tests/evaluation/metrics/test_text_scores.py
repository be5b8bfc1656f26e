"""Answers with known verdicts, and numbers in words as digits."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectron.evaluation.metrics.text_scores import DEFINITIONS, SCORERS, is_short, tokens
from spectron.utils.number_words import to_digits
from spectron.utils.plain_words import plain_words

VERDICTS = [
    json.loads(line) for line in Path(__file__).with_name("qa_verdicts.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_there_are_forty_verdicts_of_every_scorer():
    assert len(VERDICTS) >= 40
    assert set(DEFINITIONS) == set(SCORERS)
    for name in SCORERS:
        assert {True, False} == {verdict[name] for verdict in VERDICTS}


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: f"{verdict['about']}: {verdict['said'][:20]}")
@pytest.mark.parametrize("scorer", SCORERS)
def test_each_answer_has_its_known_verdict(verdict, scorer):
    assert SCORERS[scorer](verdict["references"], verdict["said"]) is verdict[scorer]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The Twenty-First  Café!", "21st cafe"),
        ("nineteen oh five", "1905"),
        ("nineteen hundred and five", "1905"),
        ("two thousand and nineteen", "2019"),
        ("twenty one twenty two", "21 22"),
        ("thirty forty", "30 40"),
        ("one and two", "1 and 2"),
        ("two hundred and", "200 and"),
        ("a hundred thousand", "100000"),
        ("two million three hundred thousand and seven", "2300007"),
        ("one thousand two million", "1000 2000000"),
        ("eleventh twelfth two hundred and third", "11th 12th 203rd"),
        ("hundreds of them", "hundreds of them"),
        ("the point is", "point is"),
        ("J.R.R. Tolkien weighed 3.5 kg.", "jrr tolkien weighed 3.5 kg"),
        ("50%", "50 percent"),
        ("Paris.The end", "paris end"),
        ("in the U.S.A", "in usa"),
        ("a Ph.D. at 5 p.m.", "phd at 5 pm"),
        ("vitamin C.It is", "vitamin c it is"),
        ("ten eleven twelve", "10 11 12"),
        ("ten eleven twelve thirteen", "10 11 12 13"),
        ("nineteen twenty twenty one", "19 20 21"),
        ("eighteen nineteen was a year", "1819 was year"),
        ("twenty twenty one", "2021"),
        ("ℌamburg", "hamburg"),
        ("snake_case 9/11", "snake case 9 11"),
        ("…", ""),
    ],
)
def test_normalised(text, wanted):
    assert " ".join(tokens(text)) == wanted


ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ONES = ["", *ONES.split(), "eighteen", "nineteen"]
TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spoken(number: int) -> str:
    """A number below 10^12 in words: the other way round, written from scratch."""
    for size, name in ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            return f"{spoken(number // size)} {name} {spoken(number % size) if number % size else ''}".strip()
    return ONES[number] if number < 20 else f"{TENS[number // 10]} {ONES[number % 10]}".strip()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 10**12 - 1))
def test_every_number_is_found_again(number):
    assert to_digits(spoken(number).split()) == [str(number)]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text())
def test_whatever_was_said_normalising_twice_changes_no_plain_word(text):
    words = plain_words(text)
    assert plain_words(" ".join(words)) == words


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=8), max_size=3), st.text(max_size=30))
def test_an_exact_answer_contains_itself(references, said):
    assert not SCORERS["exact"](references, said) or SCORERS["contains"](references, said)


def test_short_answers():
    assert is_short(["US"])
    assert is_short(["United States", " 50 "])
    assert not is_short(["Rome"])
    assert not is_short(["", "Rome"])
