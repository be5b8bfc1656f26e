"""Heads of a bfloat16 model: logits, frames and stop logits are accumulated in float32, not rounded to 8 bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.config import CTCConfig, JointConfig
from spectron.models.decode_layout import to_decode_layout
from spectron.models.decoder import Decoder
from spectron.models.layers import dot_float32
from spectron.objectives import make_objective
from spectron.objectives.joint import make_model

VOCAB = 512
HIDDEN = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, tiny.LM.dim)), jnp.bfloat16)


def rounded_share(values):
    """The share of values that bfloat16 can hold."""
    return np.mean(np.asarray(values) == np.asarray(values.astype(jnp.bfloat16).astype(jnp.float32)))


def in_bfloat16(experiment):
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, compute_dtype="bfloat16"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layout", ["training", "decoding"])
def test_vocabulary_logits_are_the_product_in_float32(tied, layout):
    config = dataclasses.replace(tiny.LM, tie_embeddings=tied)
    decoder = Decoder(config, VOCAB, scan_layers=False, dtype=jnp.bfloat16)
    tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
    params = tiny.unbox(decoder.init(jax.random.key(0), tokens, mask, jnp.zeros(1, int), method="score")["params"])
    kernel = params["embedding"].T * config.dim**-0.5 if tied else params["head"]["kernel"]
    if layout == "decoding":
        params = to_decode_layout({"encoder": {}, "lm": params}, jnp.bfloat16)["lm"]
    logits = jax.jit(lambda p, x: decoder.apply({"params": p}, x, method="logits"))(params, HIDDEN)
    wide = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in (HIDDEN, kernel)]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, wide[0] @ wide[1], atol=1e-5)


def test_their_gradients_are_products_in_the_compute_dtype():
    """Those of the rounded product, whose cotangent is rounded once."""
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(tiny.LM.dim, VOCAB)), jnp.bfloat16)
    found = jax.grad(lambda x, k: jnp.sum(jnp.sin(jnp.arange(VOCAB)) * dot_float32(x, k)), (0, 1))(HIDDEN, kernel)
    plain = jax.grad(lambda x, k: jnp.sum(jnp.sin(jnp.arange(VOCAB)) * jnp.dot(x, k).astype(jnp.float32)), (0, 1))(
        HIDDEN, kernel
    )
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_array_equal(one.astype(jnp.float32), other.astype(jnp.float32))


def test_frames_and_stop_logits_are_not_rounded():
    model = make_model(in_bfloat16(tiny.experiment()))
    joint = make_objective(JointConfig(), in_bfloat16(tiny.experiment()), tiny.statistics())
    params = tiny.unbox(jax.jit(joint.init)(jax.random.key(0), tiny.batch()))
    for weights in (params, to_decode_layout(params, jnp.bfloat16)):
        frames, stop = model.apply({"params": weights}, HIDDEN, method="predict_frames")
        assert rounded_share(frames) < 0.1 and rounded_share(stop) < 0.5


def test_ctc_logits_are_not_rounded():
    ctc = make_objective(CTCConfig(), in_bfloat16(tiny.experiment()), tiny.statistics())
    batch = tiny.batch()
    params = tiny.unbox(jax.jit(ctc.init)(jax.random.key(0), batch))
    logits = jax.jit(ctc.logits)(params, batch.samples, batch.num_samples)
    assert rounded_share(logits.values[logits.mask]) < 0.1
