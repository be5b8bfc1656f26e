"""Filter of pseudo-labels by a length-normalised score, with balancing of lengths (arXiv 2005.09629, unverified).

s = (S − μℓ − β) / (σ√ℓ), with S the log-probability of a transcript and ℓ its number of output labels: the distance of
S from the score expected at that length, in standard deviations. μ, β and σ are fitted on held-out speech.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spectron.config.noisy_student import SelectionConfig
from spectron.config.overrides import build
from spectron.corpora.labels import Label
from spectron.types import UserError
from spectron.utils.text_files import parse_json, read_text

DEFAULT = SelectionConfig()
MIN_HYPOTHESES = 3  # a line through two points has no residuals


@dataclasses.dataclass(frozen=True)
class ScoreFilter:
    """A fitted filter: keeps labels with s ≥ threshold, then a share of each bucket of lengths."""

    mu: float
    beta: float
    sigma: float
    threshold: float
    bucket_tokens: int = 50  # width of a bucket, in output labels
    rates: tuple[float, ...] = ()  # share that is kept of each bucket; (): all
    seed: int = 0

    def score(self, label: Label) -> float:
        """The normalised score s; −∞ for an empty text or a score that is not finite."""
        if label.tokens <= 0 or not math.isfinite(label.score):
            return -math.inf
        return (label.score - self.mu * label.tokens - self.beta) / (self.sigma * math.sqrt(label.tokens))

    def reason(self, label: Label) -> str:
        """Why an utterance with this label is left out; "" keeps it."""
        if not label.text or label.tokens <= 0:
            return "without text"
        if not self.score(label) >= self.threshold:
            return "score below the threshold"
        if self.rates and _draw(label.id, self.seed) >= self.rates[self.bucket(label.tokens)]:
            return "left out to balance lengths"
        return ""

    def bucket(self, tokens: int) -> int:
        """The bucket of a length; the last bucket has no upper limit."""
        return min(tokens // self.bucket_tokens, max(len(self.rates) - 1, 0))

    def to_json(self) -> str:
        """The filter as JSON; numbers survive the round trip exactly."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def from_json(text: str) -> ScoreFilter:
    """The inverse of to_json. Raises UserError for an unknown key or a wrong type."""
    return build(ScoreFilter, parse_json(text), "selection")


def load(path: str | Path) -> ScoreFilter:
    """Read a filter from a file. Raises UserError if it cannot be read."""
    try:
        return from_json(read_text(path))
    except ValueError as error:
        raise UserError(f"Label filter {str(path)!r} cannot be read ({error}); fit it again.") from error


def _draw(name: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) that depends on the id and the seed."""
    return zlib.crc32(f"{seed}/{name}".encode("utf-8", "surrogatepass")) / 2**32


def fit(labels: Sequence[Label], config: SelectionConfig = DEFAULT) -> ScoreFilter:
    """Fit a filter on held-out hypotheses: μ, β and σ by regression, a threshold that config.keep of them pass.

    The standard deviation of S grows like √ℓ, so squared residuals are weighted by 1/ℓ. Raises UserError if too few
    hypotheses are usable.
    """
    usable = [label for label in labels if label.tokens > 0 and math.isfinite(label.score)]
    if len(usable) < MIN_HYPOTHESES or len({label.tokens for label in usable}) < 2:
        raise UserError(
            f"Fitting the filter needs {MIN_HYPOTHESES} held-out hypotheses of different lengths, not {len(usable)}; "
            f"train the recogniser longer or hold out more speech."
        )
    lengths = np.asarray([label.tokens for label in usable], np.float64)
    scores = np.asarray([label.score for label in usable], np.float64)
    root = np.sqrt(lengths)
    design = np.stack([lengths / root, 1 / root], axis=1)
    (mu, beta), *_ = np.linalg.lstsq(design, scores / root, rcond=None)
    residuals = (scores - mu * lengths - beta) / root
    sigma = max(float(np.sqrt(np.mean(residuals**2))), 1e-9)
    threshold = float(np.quantile(residuals / sigma, 1 - config.keep)) if config.keep < 1 else -math.inf
    threshold = threshold if math.isfinite(threshold) else -1e9  # JSON has no infinity
    return ScoreFilter(
        mu=float(mu),
        beta=float(beta),
        sigma=sigma,
        threshold=threshold,
        bucket_tokens=config.bucket_tokens,
        seed=config.seed,
    )


def balance(
    selection: ScoreFilter, labels: Sequence[Label], target_lengths: Sequence[int], config: SelectionConfig = DEFAULT
) -> ScoreFilter:
    """Add rates that move the distribution of kept lengths towards that of target_lengths.

    At least the share config.balanced of the kept labels stays: of buckets in which target_lengths has nothing, as few
    as that allows, the same share of each. Lengths are numbers of output labels.
    """
    kept = [label.tokens for label in labels if not dataclasses.replace(selection, rates=()).reason(label)]
    if not kept or not target_lengths or config.balanced >= 1:
        return dataclasses.replace(selection, rates=())
    count = max(*kept, *target_lengths) // selection.bucket_tokens + 1
    shares = np.bincount([n // selection.bucket_tokens for n in kept], minlength=count) / len(kept)
    targets = np.bincount([n // selection.bucket_tokens for n in target_lengths], minlength=count) / len(target_lengths)
    ratios = np.where(shares > 0, targets / np.maximum(shares, 1e-12), 1.0)
    wanted = float(shares[ratios > 0].sum())  # of the kept labels, those of lengths that target_lengths has
    if wanted <= config.balanced:
        rates = np.where(ratios > 0, 1.0, (config.balanced - wanted) / max(1 - wanted, 1e-12))
    else:
        rates = _scaled(ratios, shares, config.balanced)
    return dataclasses.replace(selection, rates=tuple(round(float(r), 6) for r in rates))


def _scaled(ratios: np.ndarray, shares: np.ndarray, target: float) -> np.ndarray:
    """The least multiple of the ratios, each cut at 1, that keeps `target` of the labels.

    ratios, shares: of each bucket, [buckets]; target: less than the shares of all buckets whose ratio is not 0.
    """

    def rates(slack: float) -> np.ndarray:
        return np.minimum(1.0, ratios * slack)

    def kept_share(slack: float) -> float:
        return float((shares * rates(slack)).sum())

    # The kept share grows with the slack: double the slack until enough is kept, then bisect.
    low = 0.0
    high = 1.0
    while kept_share(high) < target - 1e-9:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        if kept_share(middle) >= target:
            high = middle
        else:
            low = middle
    return rates(high)
