"""Samplers: how the next text token is chosen from its logits.

A sampler of your own is a frozen dataclass that derives from Sampler and implements `sample`:

    @dataclasses.dataclass(frozen=True)
    class MinProbability(Sampler):
        threshold: float = 0.05

        def sample(self, logits, key):
            kept = jax.nn.softmax(logits) >= self.threshold
            return jax.random.categorical(key, jnp.where(kept, logits, -jnp.inf))
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from spectron.types import UserError


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Base class. Subclasses are frozen dataclasses of hashable fields: a sampler is part of DecodeConfig.

    `sample` sees one slot at a time, with a key of that slot and position, so that an answer cannot depend on the other
    slots of its batch.
    """

    def sample(self, logits: Float[Array, " V"], key: Key[Array, ""]) -> Int[Array, ""]:
        """The id of the next token, from float32 logits [V]. Runs inside jit."""
        raise NotImplementedError

    @property
    def facts(self) -> dict[str, Any]:
        """Name and settings, for JSON: recorded with every answer."""
        return {"name": type(self).__name__, **dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class GreedySampler(Sampler):
    """The most likely token; of equals, the first."""

    def sample(self, logits: Float[Array, " V"], key: Key[Array, ""]) -> Int[Array, ""]:
        """See Sampler; the key is not used."""
        del key
        return logits.argmax()


GREEDY = GreedySampler()


@dataclasses.dataclass(frozen=True)
class CategoricalSampler(Sampler):
    """A random token, by its probability at `temperature`, of the tokens that top-k and top-p leave.

    top_k: only the k most likely tokens; 0 leaves all. top_p: only the most likely tokens whose probabilities sum to p
    (arXiv 1904.09751), at least one; 1.0 leaves all. Both apply after the temperature. Raises UserError for a
    temperature that is not above 0, a negative top_k, or a top_p outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"A temperature of {self.temperature:g} cannot be sampled at; give a number above 0.")
        if self.top_k < 0:
            raise UserError(f"top-k {self.top_k} is negative; give how many tokens to keep, or 0 for all.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p {self.top_p:g} is not a probability; give a number above 0, up to 1.")

    def sample(self, logits: Float[Array, " V"], key: Key[Array, ""]) -> Int[Array, ""]:
        """See Sampler."""
        logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[0]:
            least = jax.lax.top_k(logits, self.top_k)[0][-1]
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        if self.top_p < 1:
            ordered = jnp.sort(logits, descending=True)
            probabilities = jax.nn.softmax(ordered)
            before = jnp.cumsum(probabilities) - probabilities  # the sum of all more likely tokens
            least = jnp.where(before < self.top_p, ordered, jnp.inf).min()
            logits = jnp.where(logits >= least, logits, -jnp.inf)
        return jax.random.categorical(key, logits)


def make_sampler(temperature: float | None = None, top_k: int = 0, top_p: float = 1.0) -> Sampler:
    """The sampler of the command line's flags: greedy at temperature 0.

    temperature None is 0, or 1 if top_k or top_p is given. Raises UserError for values out of range, and for top_k
    or top_p at temperature 0, where they would change nothing.
    """
    narrowed = bool(top_k) or top_p != 1.0
    if temperature is None:
        temperature = 1.0 if narrowed else 0.0
    if temperature == 0:
        if narrowed:
            raise UserError("--top-k and --top-p change nothing at temperature 0 (greedy); give --temperature above 0.")
        return GREEDY
    return CategoricalSampler(temperature=temperature, top_k=top_k, top_p=top_p)
