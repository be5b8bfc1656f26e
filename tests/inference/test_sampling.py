"""Samplers: which tokens they leave, with what probabilities, and that an answer does not depend on its batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inference.test_decode import make_generator, prompts
from models import tiny

from spectron.inference.sampling import CategoricalSampler, GreedySampler, Sampler, make_sampler
from spectron.types import UserError

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.25, 0.2]))


def frequencies(sampler, logits=LOGITS, draws=4000):
    """How often each token is drawn."""
    keys = jax.random.split(jax.random.key(0), draws)
    tokens = jax.jit(jax.vmap(lambda key: sampler.sample(logits, key)))(keys)
    return np.bincount(tokens, minlength=len(logits)) / draws


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (GreedySampler(), [0, 1, 0, 0, 0]),
        (CategoricalSampler(), [0.1, 0.4, 0.05, 0.25, 0.2]),
        (CategoricalSampler(temperature=0.5), [0.0364, 0.5818, 0.0091, 0.2273, 0.1455]),
        (CategoricalSampler(top_k=2), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
        (CategoricalSampler(top_k=1), [0, 1, 0, 0, 0]),
        (CategoricalSampler(top_k=9), [0.1, 0.4, 0.05, 0.25, 0.2]),
        (CategoricalSampler(top_p=0.7), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
        (CategoricalSampler(top_p=0.39), [0, 1, 0, 0, 0]),
        (CategoricalSampler(top_p=0.001), [0, 1, 0, 0, 0]),
        (CategoricalSampler(top_k=3, top_p=0.7), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    ],
)
def test_tokens_are_drawn_by_their_probabilities(sampler, expected):
    np.testing.assert_allclose(frequencies(sampler), expected, atol=0.03)


def test_the_flags_of_the_command_line():
    assert make_sampler() == make_sampler(0.0) == GreedySampler()
    assert make_sampler(0.7) == CategoricalSampler(0.7)
    assert make_sampler(None, 5) == CategoricalSampler(1.0, top_k=5)
    assert make_sampler(None, 0, 0.9) == CategoricalSampler(1.0, top_p=0.9)
    assert make_sampler(0.7, 5).facts == {"name": "CategoricalSampler", "temperature": 0.7, "top_k": 5, "top_p": 1.0}
    for flags, words in (
        ((-1.0,), "temperature of -1"),
        ((float("nan"),), "temperature of nan"),
        ((1.0, -2), "top-k -2 is negative"),
        ((1.0, 0, 0.0), "top-p 0 is not a probability"),
        ((1.0, 0, 1.1), "top-p 1.1 is not"),
        ((0.0, 3), "give --temperature above 0"),
    ):
        with pytest.raises(UserError, match=words):
            make_sampler(*flags)


@dataclasses.dataclass(frozen=True)
class Second(Sampler):
    """The second most likely token."""

    def sample(self, logits, key):
        return jax.lax.top_k(logits, 2)[1][1]


def test_a_sampled_answer_depends_on_seed_and_number_alone():
    generator, samples = make_generator(tiny.experiment(prenet_dropout=0.5)), prompts(4)
    hot = CategoricalSampler(temperature=3.0)
    together = generator.generate(samples, seed=3, numbers=[7, 2, 9, 4], batch_size=2, sampler=hot)
    some = generator.generate([samples[3], samples[1]], seed=3, numbers=[4, 2], batch_size=2, sampler=hot)
    for a, b in zip((together[3], together[1]), some, strict=True):
        assert a.ids == b.ids and len(a.frames) == len(b.frames)
    same = generator.generate([samples[0]] * 6, seed=3, batch_size=2, sampler=hot)
    assert len({answer.ids for answer in same}) > 1, "every number drew the same text"
    assert "".join(piece.text for piece in generator.stream(samples[0], 3, sampler=hot)) == same[0].transcript
    greedy = generator.generate(samples[0])
    assert greedy.ids == generator.generate(samples[0], sampler=CategoricalSampler(top_k=1)).ids
    assert greedy.ids[:1] != generator.generate(samples[0], sampler=Second()).ids[:1]
