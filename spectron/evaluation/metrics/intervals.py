"""Figures with 95 % intervals: proportions, means, ratios and correlations over items."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from spectron.evaluation.results import INTERVAL, Figure

Z95 = 1.959964  # the normal distribution's 97.5 % point
RESAMPLES = 2000  # ours: the interval's ends are then steady to about a tenth of its width
DRAWN = 1 << 20  # ours: items drawn at once, some tens of megabytes


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, as fractions; (0, 1) when n is 0.

    scipy's takes whole successes only; an item's mean over decoding seeds may be a fraction.
    """
    if n == 0:
        return 0.0, 1.0
    share, z = successes / n, Z95
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def bootstrap(
    statistic: Callable[..., Float[np.ndarray, " R"]], *samples: Sequence[float] | Float[np.ndarray, " N"]
) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of a statistic when the N items are drawn anew with replacement.

    statistic: the samples' values of the drawn items, [R, N] each, and axis → [R]. Draws for which it is NaN are left
    out. (nan, nan) for fewer than two items, which do not show how items differ.
    """
    from scipy import stats  # here: slow to import

    if len(samples[0]) < 2:
        return math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of draws without a value
        drawn = stats.bootstrap(
            samples,
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, DRAWN // len(samples[0])),
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(0),
        ).bootstrap_distribution
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def _ratio(sums: np.ndarray, weights: np.ndarray, axis: int = -1) -> np.ndarray:
    """Σ sums / Σ weights; NaN if the weights sum to 0."""
    total = weights.sum(axis=axis)
    return np.where(total > 0, sums.sum(axis=axis) / np.where(total > 0, total, 1.0), math.nan)


def proportion(label: str, hits: Sequence[Sequence[bool]], definition: str, repeats: str = "decoding seeds") -> Figure:
    """Share of hits; hits[item] holds one verdict for each of its repeats.

    Repeats of one item are not independent, so whole items are drawn anew. Where every item has the same mean the
    bootstrap has no width, and with one verdict per item there is a closed form: Wilson's interval over items then.
    """
    means = np.asarray([np.mean(each) for each in hits if len(each)], np.float64)
    if not len(means):
        return Figure(label, math.nan, 0, math.nan, math.nan, definition)
    if means.min() == means.max() or all(len(each) <= 1 for each in hits):
        low, high = wilson(float(means.sum()), len(means))
        kind = "Wilson's, over items."
    else:
        low, high = bootstrap(np.mean, means)
        kind = f"bootstrap over items of the item's mean over {repeats}."
    return Figure(label, float(means.mean()), len(means), low, high, f"{definition}{INTERVAL}{kind}")


def average(
    label: str, values: Sequence[float], definition: str, unit: str, weights: Sequence[float] | None = None
) -> Figure:
    """Mean of a quantity over items (or Σ values / Σ weights), with a bootstrap interval; NaN if the weights are 0."""
    sums = np.asarray(values, np.float64)
    divisors = np.ones_like(sums) if weights is None else np.asarray(weights, np.float64)
    definition = f"{definition}{INTERVAL}bootstrap over items."
    if not len(sums):
        return Figure(label, math.nan, 0, math.nan, math.nan, definition, unit)
    low, high = bootstrap(_ratio, sums, divisors)
    return Figure(label, float(_ratio(sums, divisors)), len(sums), low, high, definition, unit)


def seed_average(label: str, pairs: Sequence[Sequence[tuple[float, float]]], definition: str, unit: str = "") -> Figure:
    """Σ values / Σ weights over items; pairs[item] holds a (value, weight) for each decoding seed that has one.

    An item counts with its mean over seeds; items without a value are left out, and whole items are drawn anew.
    """
    means = [np.mean(np.asarray(each, np.float64), axis=0) for each in pairs if len(each)]
    return average(label, [m[0] for m in means], definition, unit, [m[1] for m in means])


def known(values: Sequence[Sequence[float | None]]) -> list[list[tuple[float, float]]]:
    """values[item][seed] for seed_average, each of weight 1; None and NaN are left out."""
    return [[(each, 1.0) for each in row if each is not None and not math.isnan(each)] for row in values]


def correlation(label: str, pairs: Sequence[Sequence[tuple[float, float]]], definition: str) -> Figure:
    """Pearson's correlation of two quantities; pairs[item] holds one pair per decoding seed. NaN without variance.

    Whole items are drawn anew for the interval.
    """
    items = [np.asarray(each, np.float64) for each in pairs if len(each)]
    definition = f"{definition} Pearson's correlation.{INTERVAL}bootstrap over items."
    if not items:
        return Figure(label, math.nan, 0, math.nan, math.nan, definition, "")
    moments = np.asarray([[len(e), *e.sum(0), *(e**2).sum(0), e.prod(1).sum()] for e in items]).T
    low, high = bootstrap(_pearson, *moments)
    return Figure(label, float(_pearson(*moments)), len(items), low, high, definition, "")


def _pearson(*moments: np.ndarray, axis: int = -1) -> np.ndarray:
    """From each item's n, Σx, Σy, Σx², Σy² and Σxy."""
    n, x, y, xx, yy, xy = (each.sum(axis=axis) for each in moments)
    variances = np.maximum(n * xx - x**2, 0) * np.maximum(n * yy - y**2, 0)
    flat = variances <= 1e-12 * np.maximum(n, 1) ** 4
    return np.where(flat, math.nan, (n * xy - x * y) / np.sqrt(np.where(flat, 1.0, variances)))
