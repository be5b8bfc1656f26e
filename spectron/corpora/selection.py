"""Which labels are good enough: a length-normalised score fitted on held-out speech, then lengths balanced (PAPER §5).

s = (S − μℓ − β) / (σ√ℓ), S the log-probability and ℓ the number of labels: what is left when the expected score of a
text of that length is taken away, in its standard deviations. Every decision is a function of one label.
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

DEFAULT = SelectionConfig()
FEWEST = 3  # hypotheses: two make a line without spread


@dataclasses.dataclass(frozen=True)
class Selection:
    """A fitted filter. rates: per bucket of `bucket_tokens` labels the share that stays; () keeps all lengths."""

    mu: float
    beta: float
    sigma: float
    threshold: float
    bucket_tokens: int = 50
    rates: tuple[float, ...] = ()
    seed: int = 0

    def score(self, label: Label) -> float:
        """s; −∞ for a text of no labels, or of no score."""
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
        """The bucket of a length; the last has no end."""
        return min(tokens // self.bucket_tokens, max(len(self.rates) - 1, 0))

    def to_json(self) -> str:
        """The filter as JSON text; every number exactly."""
        return json.dumps(dataclasses.asdict(self), indent=1)


def from_json(text: str) -> Selection:
    """The inverse of to_json. Raises UserError on an unknown key or a wrong type."""
    return build(Selection, json.loads(text), "selection")


def load(path: str | Path) -> Selection:
    """A filter from a file. Raises UserError when it cannot be read."""
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Selection {str(path)!r} cannot be read ({error}); fit it again.") from error


def _draw(name: str, seed: int) -> float:
    """A number in [0, 1) that an id always draws."""
    return zlib.crc32(f"{seed}/{name}".encode("utf-8", "surrogatepass")) / 2**32


def fit(labels: Sequence[Label], config: SelectionConfig = DEFAULT) -> Selection:
    """μ, β and σ by regression on held-out hypotheses; the threshold lets the share config.keep of them pass.

    Scores of ℓ labels spread like √ℓ, so each is weighed by 1/ℓ. Raises UserError for too few usable hypotheses.
    """
    usable = [label for label in labels if label.tokens > 0 and math.isfinite(label.score)]
    if len(usable) < FEWEST or len({label.tokens for label in usable}) < 2:
        raise UserError(
            f"The score needs {FEWEST} held-out hypotheses of different lengths, not {len(usable)}; "
            f"train the recogniser longer or hold more speech out."
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
    return Selection(float(mu), float(beta), sigma, threshold, config.bucket_tokens, (), config.seed)


def balance(
    selection: Selection, labels: Sequence[Label], wanted: Sequence[int], config: SelectionConfig = DEFAULT
) -> Selection:
    """The filter with rates per bucket that move the kept labels' lengths towards those of `wanted` (numbers of labels
    of the labelled texts), as far as the share config.balanced of them stays."""
    kept = [label.tokens for label in labels if not dataclasses.replace(selection, rates=()).reason(label)]
    if not kept or not wanted or config.balanced >= 1:
        return dataclasses.replace(selection, rates=())
    count = max(*kept, *wanted) // selection.bucket_tokens + 1
    have = np.bincount([n // selection.bucket_tokens for n in kept], minlength=count) / len(kept)
    want = np.bincount([n // selection.bucket_tokens for n in wanted], minlength=count) / len(wanted)
    ratios = np.where(have > 0, want / np.maximum(have, 1e-12), 1.0)

    def rates(slack: float) -> np.ndarray:
        return np.minimum(1.0, ratios * slack)

    # The kept share grows with the slack: double it until enough stays, then halve the interval.
    low, high = 0.0, 1.0
    reachable = float((have * (ratios > 0)).sum())
    target = min(config.balanced, reachable)
    while float((have * rates(high)).sum()) < target - 1e-9:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if float((have * rates(middle)).sum()) >= target else (middle, high)
    return dataclasses.replace(selection, rates=tuple(round(float(r), 6) for r in rates(high)))
