import math

import numpy as np
import pytest

from spectron.evaluation.metrics import intervals
from spectron.evaluation.metrics.intervals import average, bootstrap, correlation, proportion, wilson
from spectron.evaluation.results import Figure


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (9, 10, 0.5958, 0.9821),  # Brown, Cai and DasGupta 2001's formula, worked by hand
        (0, 10, 0.0, 0.2775),
        (300, 300, 0.9874, 1.0),
        (68.7, 300, 0.1851, 0.2798),  # 22.9 % of 300 questions carry about ±4.8 points
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(3).normal(5, 2, 900)
    low, high = bootstrap(np.mean, values)
    spread = 1.96 * values.std() / 30
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.15 * spread)
    assert bootstrap(np.mean, values) == (low, high), "the same every time"


def test_bootstrap_of_a_ratio_weighs_the_items():
    errors, words = np.array([0.0, 0.0, 30.0]), np.array([10.0, 10.0, 1000.0])
    assert average("wer", errors, "d.", "%", words).value == pytest.approx(30 / 1020)
    figure = average("wer", errors, "d.", "%", words)
    low, high = figure.low, figure.high
    assert low == 0.0 and high == pytest.approx(0.03)


def test_more_decoding_seeds_of_the_same_items_are_no_more_items():
    once = proportion("x", [[i % 4 != 0] for i in range(80)], "d.")
    thrice = proportion("x", [[i % 4 != 0] * 3 for i in range(80)], "d.")
    assert once.n == thrice.n == 80 and once.value == thrice.value == 0.75
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.1)
    assert "Wilson" in once.definition and "bootstrap over items" in thrice.definition


def test_all_right_still_has_an_interval():
    figure = proportion("x", [[True, True, True]] * 50, "d.")
    assert figure.value == 1.0 and figure.low == pytest.approx(wilson(50, 50)[0]) and figure.low < 0.95


def test_nothing_measured_is_not_a_number():
    for figure in (proportion("x", [], "d."), average("x", [], "d.", "nats")):
        assert figure.n == 0 and math.isnan(figure.value) and "–" in figure.text()


def test_one_item_has_no_interval():
    for figure in (average("x", [3.0], "d.", "s"), correlation("r", [[(1.0, 2.0), (2.0, 1.0)]], "d.")):
        assert figure.n == 1 and figure.value in (3.0, -1.0) and figure.interval_text() == "– to –"


def test_nothing_to_weigh_by_is_not_a_number():
    figure = average("x", [1.0, 2.0], "d.", "%", [0.0, 0.0])
    assert all(map(math.isnan, (figure.value, figure.low, figure.high))) and figure.n == 2
    figure = average("x", [1.0, 0.0], "d.", "%", [2.0, 0.0])
    low, high = figure.low, figure.high
    assert (low, high) == (0.5, 0.5), "a draw of the second alone has no ratio"


def test_drawing_in_parts_is_the_same(monkeypatch):
    values = np.random.default_rng(3).normal(5, 2, 30)
    pairs = [[(float(x), float(x**2))] for x in values]
    whole = bootstrap(np.mean, values), correlation("r", pairs, "")
    monkeypatch.setattr(intervals, "DRAWN", 300)
    assert (bootstrap(np.mean, values), correlation("r", pairs, "")) == whole


def test_text():
    assert Figure("x", 0.972, 10, 0.9512, 0.9861, "d.").text() == "97.2 %"
    assert Figure("x", 0.972, 10, 0.9512, 0.9861, "d.").interval_text() == "95.1 to 98.6"
    assert Figure("x", 1.337, 10, 1.2, 1.4, "d.", "nats").text() == "1.34 nats"
