"""Fused attention against the plain one. cuDNN's kernel needs a GPU: tests/benchmarks/gpu.py compares it there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spectron.models.attention import attention
from spectron.models.fused_attention import fused_attention

BATCH, LENGTH, HEADS, GROUPS, WIDTH, PREFIX = 2, 150, 4, 2, 64, 20


def inputs():
    rng = np.random.default_rng(0)
    shapes = [(BATCH, LENGTH, heads, WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    arrays = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    place = np.arange(LENGTH)
    padding = (place >= 100) | ((place >= 12) & (place < PREFIX)) | ((place >= 60) & (place < 70))  # in each segment
    real = np.stack([place < LENGTH, ~padding])
    seen = (place[None, :] <= place[:, None]) | ((place[None, :] < PREFIX) & (place[:, None] < PREFIX))
    return arrays, jnp.asarray(seen & real[:, None, :] & real[:, :, None])


def test_splash_is_plain_attention():
    """Values and gradients, with padding, a prefix, shared keys and sizes that fill no block."""
    arrays, attention_mask = inputs()

    def both(function):
        def loss(*arrays):
            mixed = function(*arrays)
            return jnp.sum(jnp.sin(mixed)), mixed

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    (_, found), slopes = both(lambda *x: fused_attention("splash", *x, attention_mask, PREFIX))
    (_, wanted), expected = both(lambda *x: attention(*x, attention_mask))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    for slope, other in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(slope, other, atol=5e-5)


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
def test_cudnn_is_given_an_even_length_and_a_mask_that_sees_something(monkeypatch, length):
    """Its kernel needs a GPU; XLA's implementation of the same function takes the same arguments."""
    arrays, attention_mask = inputs()
    arrays, attention_mask = [x[:, :length] for x in arrays], attention_mask[:, :length, :length]
    plain = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, mask, scale, implementation):
        assert implementation == "cudnn" and query.shape[1] % 2 == 0 and bool(mask.any(axis=-1).all())
        return plain(query, key, value, mask=mask, scale=scale, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    found = fused_attention("cudnn", *arrays, attention_mask, PREFIX)
    np.testing.assert_allclose(found, attention(*arrays, attention_mask), atol=1e-5)
