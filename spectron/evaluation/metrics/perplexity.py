"""Log-perplexity of texts under a causal language model, by three definitions, since papers rarely state theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spectron.evaluation.judges.base import LanguageModel
from spectron.evaluation.metrics.intervals import seed_average
from spectron.evaluation.results import Figure

SETTING = "texts as the case setting says, single spaces, the end of a text not scored"
DEFINITIONS = {
    "log-ppl per token": f"Σ −ln p over all texts / Σ their tokens ({SETTING}); depends on the model's tokens.",
    "log-ppl per word": f"Σ −ln p over all texts / Σ their words between spaces ({SETTING}).",
    "log-ppl summed": f"Mean over texts of Σ −ln p ({SETTING}); grows with the length of what is said.",
}


class Surprise(NamedTuple):
    """One text: Σ −ln p, of how many tokens, and how many words it has.

    (0, 0, 0) if no token was scored: an empty text, or a single token that the model cannot predict from anything.
    """

    nats: float
    tokens: int
    words: int


def surprise(lm: LanguageModel, texts: Sequence[str], keep_case: bool = False) -> list[Surprise]:
    """Each text under the model, in lower case unless keep_case: recognisers differ in case, and it changes scores."""
    ready = [" ".join((text if keep_case else text.lower()).split()) for text in texts]
    present = [i for i, text in enumerate(ready) if text]
    out = [Surprise(0.0, 0, 0)] * len(ready)
    if present:
        for i, (log_prob, tokens) in zip(present, lm.score([ready[i] for i in present]), strict=True):
            if tokens:
                out[i] = Surprise(-log_prob, tokens, len(ready[i].split()))
    return out


def perplexity_figures(surprises: Sequence[Sequence[Surprise]]) -> dict[str, Figure]:
    """The three columns of surprises[item][seed]; texts without a scored token are left out."""
    rows = [[each for each in row if each.tokens] for row in surprises]
    weights = {
        "log-ppl per token": lambda each: each.tokens,
        "log-ppl per word": lambda each: each.words,
        "log-ppl summed": lambda each: 1.0,
    }
    return {
        name: seed_average(
            name, [[(each.nats, weight(each)) for each in row] for row in rows], DEFINITIONS[name], "nats"
        )
        for name, weight in weights.items()
    }
