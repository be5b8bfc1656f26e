"""Figures with their uncertainty: value, n, 95 % interval and definition, never a bare number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Z95 = 1.959964  # the normal distribution's 97.5 % point
RESAMPLES = 2000  # ours: the interval's ends are then steady to about a tenth of its width
DRAWN = 1 << 20  # ours: items drawn at once, some tens of megabytes


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured quantity. unit: "%" (value, low and high are fractions) or what the number counts; n: items."""

    label: str
    value: float
    n: int
    low: float
    high: float
    definition: str
    unit: str = "%"

    def text(self) -> str:
        """The value as people read it: "97.2 %", "1.34 nats"."""
        return f"{_number(self.value, self.unit)} {self.unit}".strip()

    def interval_text(self) -> str:
        """The interval in the same unit: "95.1 to 98.6"."""
        return f"{_number(self.low, self.unit)} to {_number(self.high, self.unit)}"


def _number(value: float, unit: str) -> str:
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3g}"


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion, as fractions; (0, 1) when n is 0."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def bootstrap(
    sums: Float[np.ndarray, " N"], weights: Float[np.ndarray, " N"] | None = None, seed: int = 0
) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of Σ sums / Σ weights when the N items are drawn anew with replacement.

    weights None: the mean of `sums`. Draws whose weights sum to 0 have no ratio and are left out; (nan, nan) where all
    do, or there are fewer than two items: one says nothing about how others would differ.
    """
    sums = np.asarray(sums, np.float64)
    weights = np.ones_like(sums) if weights is None else np.asarray(weights, np.float64)
    if len(sums) < 2:
        return math.nan, math.nan
    drawn = _resampled(np.stack([sums, weights], axis=1), seed)
    drawn = drawn[drawn[:, 1] > 0]
    return _middle(drawn[:, 0] / drawn[:, 1])


def _resampled(values: Float[np.ndarray, "N K"], seed: int = 0) -> Float[np.ndarray, "R K"]:
    """The sums of N items drawn anew with replacement, RESAMPLES times, some at a time: many items need no memory."""
    rng, count = np.random.default_rng(seed), len(values)
    each = max(1, DRAWN // count)
    sizes = [min(each, RESAMPLES - start) for start in range(0, RESAMPLES, each)]
    return np.concatenate([values[rng.integers(count, size=(size, count))].sum(axis=1) for size in sizes])


def _middle(ends: Float[np.ndarray, " R"]) -> tuple[float, float]:
    """The 2.5 and 97.5 % points; nan of nothing."""
    if not len(ends):
        return math.nan, math.nan
    low, high = np.quantile(ends, (0.025, 0.975))
    return float(low), float(high)


def proportion(label: str, hits: Sequence[Sequence[bool]], definition: str) -> Figure:
    """Share of hits; hits[item] holds one verdict per decoding seed.

    Seeds of one item are not independent, so whole items are drawn anew. Where every item has the same mean that
    bootstrap has no width, and with one verdict per item there is a closed form: Wilson's interval over items then.
    """
    means = np.asarray([np.mean(each) for each in hits if len(each)], np.float64)
    if not len(means):
        return Figure(label, math.nan, 0, math.nan, math.nan, definition)
    if means.min() == means.max() or all(len(each) <= 1 for each in hits):
        low, high = wilson(float(means.sum()), len(means))
        how = "95 % interval: Wilson's, over items."
    else:
        low, high = bootstrap(means)
        how = "95 % interval: bootstrap over items of the item's mean over decoding seeds."
    return Figure(label, float(means.mean()), len(means), low, high, f"{definition} {how}")


def average(
    label: str, values: Sequence[float], definition: str, unit: str, weights: Sequence[float] | None = None
) -> Figure:
    """Mean of a quantity over items (or Σ values / Σ weights), with a bootstrap interval; nan if the weights are 0."""
    sums = np.asarray(values, np.float64)
    below = np.ones_like(sums) if weights is None else np.asarray(weights, np.float64)
    how = f"{definition} 95 % interval: bootstrap over items."
    if not len(sums):
        return Figure(label, math.nan, 0, math.nan, math.nan, how, unit)
    value = float(sums.sum() / below.sum()) if below.sum() > 0 else math.nan
    return Figure(label, value, len(sums), *bootstrap(sums, below), how, unit)


def correlation(label: str, pairs: Sequence[Sequence[tuple[float, float]]], definition: str) -> Figure:
    """Pearson's correlation of two quantities; pairs[item] holds one pair per decoding seed. nan without spread.

    Whole items are drawn anew for the interval.
    """
    known = [np.asarray(each, np.float64) for each in pairs if len(each)]
    how = f"{definition} Pearson's correlation. 95 % interval: bootstrap over items."
    if not known:
        return Figure(label, math.nan, 0, math.nan, math.nan, how, "")
    moments = np.asarray([[len(e), *e.sum(0), *(e**2).sum(0), e.prod(1).sum()] for e in known])
    ends = _pearson(_resampled(moments)) if len(known) > 1 else np.zeros(0)
    low, high = _middle(ends[~np.isnan(ends)])  # draws without spread say nothing
    return Figure(label, float(_pearson(moments.sum(axis=0))), len(known), low, high, how, "")


def _pearson(moments: Float[np.ndarray, "*D 6"]) -> Float[np.ndarray, "*D"]:
    """From n, Σx, Σy, Σx², Σy² and Σxy."""
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    spread = np.maximum(n * xx - x**2, 0) * np.maximum(n * yy - y**2, 0)
    flat = spread <= 1e-12 * np.maximum(n, 1) ** 4
    return np.where(flat, math.nan, (n * xy - x * y) / np.sqrt(np.where(flat, 1.0, spread)))
