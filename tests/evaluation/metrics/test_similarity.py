"""Similarity to the other items' prompts, against its definition written out."""

import math

import numpy as np
import pytest

from spectron.evaluation.metrics.similarity import cosine, to_others


def voices(seed, count, size=256):
    """Unit vectors, every fifth of them zeros: no voice was found."""
    found = np.random.default_rng(seed).normal(0.2, 1, (count, size))
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found[4::5] = 0
    return found.astype(np.float32)


def written_out(prompts, spoken):
    """The mean over all pairs of different items in which both have a voice."""
    means = []
    for i, mine in enumerate(spoken):
        values = [cosine(p, mine) for j, p in enumerate(prompts) if j != i]
        values = [value for value in values if not math.isnan(value)]
        means.append(sum(values) / len(values) if values else math.nan)
    return means


@pytest.mark.parametrize("count", [1, 2, 5, 6, 40])
def test_as_it_is_defined(count):
    prompts, spoken = voices(0, count), np.roll(voices(1, count), 1, axis=0)
    np.testing.assert_allclose(to_others(prompts, spoken), written_out(prompts, spoken), rtol=0, atol=1e-6)


def test_nobody_else_has_a_voice():
    one = np.eye(3, dtype=np.float32)
    one[1:] = 0
    assert np.isnan(to_others(one, np.eye(3, dtype=np.float32))).tolist() == [True, False, False]
    assert np.isnan(to_others(one * 0, one)).all()
