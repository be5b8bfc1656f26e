"""Log-perplexity of texts under a causal language model, by three definitions at once: papers rarely say which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from spectron.evaluation.judges.outside import LanguageModel
from spectron.evaluation.scores.intervals import Figure, average

SETTING = "texts as the case setting says, single spaces, the end of a text not scored"
DEFINITIONS = {
    "per token": f"Σ −ln p over all texts / Σ their tokens ({SETTING}); depends on the model's tokens.",
    "per word": f"Σ −ln p over all texts / Σ their words between spaces ({SETTING}).",
    "summed": f"Mean over texts of Σ −ln p ({SETTING}); grows with the length of what is said.",
}


class Surprise(NamedTuple):
    """One text: Σ −ln p, of how many tokens, and how many words it has.

    (0, 0, 0) where no token was scored: of an empty text, and of one token before which the model has nothing.
    """

    nats: float
    tokens: int
    words: int


def surprise(lm: LanguageModel, texts: Sequence[str], keep_case: bool = False) -> list[Surprise]:
    """Each text under the model. Lower case unless keep_case: recognisers differ in it, and models mind."""
    ready = [" ".join((text if keep_case else text.lower()).split()) for text in texts]
    present = [i for i, text in enumerate(ready) if text]
    found = [Surprise(0.0, 0, 0)] * len(ready)
    if present:
        for i, (log_prob, tokens) in zip(present, lm.score([ready[i] for i in present]), strict=True):
            if tokens:
                found[i] = Surprise(-log_prob, tokens, len(ready[i].split()))
    return found


def perplexity_figures(found: Sequence[Surprise]) -> dict[str, Figure]:
    """The three columns; texts of which nothing was scored are left out."""
    real = [each for each in found if each.words]
    nats = [each.nats for each in real]
    weights = {"per token": [each.tokens for each in real], "per word": [each.words for each in real], "summed": None}
    return {
        f"log-ppl {name}": average(f"log-ppl {name}", nats, definition, "nats", weights[name])
        for name, definition in DEFINITIONS.items()
    }
