"""The filter of labels: its formulas by hand, its threshold, its balance, and what is no label."""

import math

import numpy as np
import pytest

from spectron.config.noisy_student import SelectionConfig
from spectron.corpora import selection
from spectron.corpora.labels import Label, labels_path, write_labels
from spectron.corpora.selection import ScoreFilter
from spectron.types import UserError


def label(tokens, score, name="a"):
    return Label(name, "TEXT", score, tokens, 1.0)


def test_the_score_by_hand():
    chosen = ScoreFilter(mu=-0.5, beta=-2.0, sigma=2.0, threshold=-1.0)
    # (-20 + 0.5 * 16 + 2) / (2 * 4)
    assert chosen.score(label(16, -20.0)) == pytest.approx(-1.25)
    assert chosen.reason(label(16, -20.0)) == "score below the threshold"
    assert chosen.reason(label(16, -17.0)) == ""
    assert chosen.score(label(0, -1.0)) == -math.inf


@pytest.mark.parametrize(
    "bad", [Label("a", "", 0.0, 0, 1.0), Label("a", "", -1.0, 3, 1.0), Label("a", "X", -1.0, 0, 1.0)]
)
def test_no_text_is_no_label(bad):
    assert ScoreFilter(0, 0, 1, -1e9).reason(bad) == "without text"


@pytest.mark.parametrize("score", [math.nan, -math.inf, math.inf])
def test_a_score_that_is_no_number_is_left_out(score):
    assert ScoreFilter(0, 0, 1, -1.0).reason(label(4, score)) == "score below the threshold"


def test_regression_recovers_what_scores_were_drawn_from():
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 300, 4000)
    scores = -0.3 * lengths - 5.0 + 0.8 * np.sqrt(lengths) * rng.normal(size=4000)
    labels = [label(int(n), float(s)) for n, s in zip(lengths, scores, strict=True)]
    fitted = selection.fit(labels, SelectionConfig(keep=0.7))
    assert fitted.mu == pytest.approx(-0.3, abs=0.02)
    assert fitted.beta == pytest.approx(-5.0, abs=1.0)
    assert fitted.sigma == pytest.approx(0.8, rel=0.05)
    assert np.mean([not fitted.reason(x) for x in labels]) == pytest.approx(0.7, abs=0.01)
    # Long and short ones pass alike: that is what the normalisation is for.
    short = np.mean([not fitted.reason(x) for x in labels if x.tokens < 100])
    long = np.mean([not fitted.reason(x) for x in labels if x.tokens > 200])
    assert short == pytest.approx(long, abs=0.06)


def test_keeping_all_keeps_all_and_survives_json():
    labels = [label(n, -n - 0.1 * (n % 3)) for n in range(1, 20)]
    fitted = selection.fit(labels, SelectionConfig(keep=1.0))
    assert not any(fitted.reason(x) for x in labels)
    assert selection.from_json(fitted.to_json()) == fitted


def test_weights_of_the_regression_by_hand():
    """Three points: minimise Σ (S − μℓ − β)² / ℓ."""
    lengths, scores = np.asarray([1.0, 4.0, 9.0]), np.asarray([-1.0, -5.0, -6.0])
    w = 1 / lengths
    mean_l, mean_s = (w * lengths).sum() / w.sum(), (w * scores).sum() / w.sum()
    mu = (w * (lengths - mean_l) * (scores - mean_s)).sum() / (w * (lengths - mean_l) ** 2).sum()
    beta = mean_s - mu * mean_l
    sigma = np.sqrt((w * (scores - mu * lengths - beta) ** 2).mean())
    fitted = selection.fit([label(int(n), s) for n, s in zip(lengths, scores, strict=True)])
    np.testing.assert_allclose([fitted.mu, fitted.beta, fitted.sigma], [mu, beta, sigma], rtol=1e-9)


@pytest.mark.parametrize("labels", [[], [label(3, -1.0)] * 5, [label(3, -1.0), label(4, -2.0)]])
def test_too_few_hypotheses_are_said_in_words(labels):
    with pytest.raises(UserError, match="held-out hypotheses"):
        selection.fit(labels)


def test_balance_moves_lengths_towards_the_labelled_ones():
    """Pool: three quarters short; labelled: half. At least 80 % stay."""
    labels = [label(10 if i % 4 else 60, -1.0, str(i)) for i in range(4000)]
    config = SelectionConfig(keep=1.0, balanced=0.8)
    fitted = selection.balance(ScoreFilter(0, 0, 1, -1e9), labels, [10, 60], config)
    kept = [x for x in labels if not fitted.reason(x)]
    # Shares 0.75 r + 0.25 = 0.8 → r = 0.7333; long ones all stay.
    assert fitted.rates == pytest.approx((0.55 / 0.75, 1.0), abs=1e-5)
    assert len(kept) / len(labels) == pytest.approx(0.8, abs=0.02)
    assert sum(x.tokens == 60 for x in kept) == 1000
    assert fitted.reason(labels[1]) == fitted.reason(labels[1])
    assert {fitted.reason(x) for x in labels} == {"", "left out to balance lengths"}
    assert selection.from_json(fitted.to_json()) == fitted


@pytest.mark.parametrize("balanced", [0.3, 0.9])
@pytest.mark.parametrize(
    ("pool", "labelled"),
    [
        ({10: 1000}, [60]),  # nobody is labelled at the length of all
        ({10: 490, 60: 510}, [60, 61, 120]),
        ({10: 100, 60: 200, 120: 300, 180: 400}, [10] * 98 + [60, 120]),
        ({10: 950, 60: 50}, [10, 60, 120]),
    ],
)
def test_balancing_keeps_the_promised_share(pool, labelled, balanced):
    tokens = [n for n, count in pool.items() for _ in range(count)]
    labels = [label(n, -1.0, str(i)) for i, n in enumerate(tokens)]
    fitted = selection.balance(ScoreFilter(0, 0, 1, -1e9), labels, labelled, SelectionConfig(balanced=balanced))
    share = sum(fitted.rates[n // 50] * count for n, count in pool.items()) / len(labels)
    assert share == pytest.approx(balanced, abs=1e-4)
    assert np.mean([not fitted.reason(x) for x in labels]) == pytest.approx(balanced, abs=0.05)
    # Lengths that nobody is labelled at are the first to go.
    rates = {n: fitted.rates[n // 50] for n in pool}
    lacking = [rates[n] for n in pool if n // 50 not in {m // 50 for m in labelled}]
    others = [rates[n] for n in pool if n // 50 in {m // 50 for m in labelled}]
    assert not lacking or max(lacking) == min(lacking)
    assert not (lacking and others) or max(lacking) <= min(others)


def test_longer_than_every_bucket_counts_as_the_last():
    chosen = ScoreFilter(0, 0, 1, -1e9, rates=(1.0, 0.0))
    assert chosen.reason(label(10, 0.0)) == ""
    assert chosen.reason(label(5000, 0.0)) == "left out to balance lengths"


def test_balance_without_anything_kept_keeps_the_filter():
    chosen = ScoreFilter(0, 0, 1, 0.0)
    assert selection.balance(chosen, [label(3, -9.0)], [3]) == chosen


def test_the_command_fits_labels_on_disk(tmp_path, capsys):
    from spectron.cli import main

    made = [label(n, -n - 0.1 * (n % 3), str(n)) for n in range(1, 20)]
    write_labels(labels_path(tmp_path, 0), made)
    out = tmp_path / "filter.json"
    assert main(["data", "fit-filter", str(tmp_path), "--out", str(out), "--keep", "0.5"]) == 0
    assert selection.load(out) == selection.fit(made, SelectionConfig(keep=0.5))
    assert main(["data", "fit-filter", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert main(["data", "fit-filter", str(tmp_path), "--out", str(out), "--keep", "7"]) == 2
    assert "--keep" in capsys.readouterr().err


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "s.json").write_text("{")
    with pytest.raises(UserError, match=r"s\.json"):
        selection.load(tmp_path / "s.json")
    with pytest.raises(UserError, match="none"):
        selection.load(tmp_path / "none")
    (tmp_path / "s.json").write_text('{"mu": 1, "nu": 2}')
    with pytest.raises(UserError, match="nu"):
        selection.load(tmp_path / "s.json")
