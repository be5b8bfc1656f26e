"""The contracts of every layer: padding changes nothing, a row alone equals the row in a batch, lengths are real."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.config import LinearConnectorConfig, ModelConfig, SpecAugmentConfig, StackMLPConnectorConfig
from spectron.models.attention import Attention
from spectron.models.conformer import Conformer, ConformerBlock, ConvModule, Subsampling
from spectron.models.connectors import make_connector
from spectron.models.decoder import Decoder
from spectron.models.segments import count_positions, prefix_lm_mask
from spectron.models.specaugment import specaugment
from spectron.types import Sequence, Statistics

LENGTHS = [9, 5, 12, 1]


def positions(mask):
    return jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)


class Layer:
    """A module as Sequence → Sequence."""

    def __init__(self, module, width, call, method=None):
        self.module, self.width, self.call, self.method = module, width, call, method

    def init(self, x):
        init = jax.jit(functools.partial(self.module.init, method=self.method))
        return tiny.unbox(init(jax.random.key(0), *self.arguments(x))["params"])

    def arguments(self, x):
        return self.call(x)

    def __call__(self, params, x) -> Sequence:
        out = self.module.apply({"params": params}, *self.arguments(x), method=self.method)
        if isinstance(out, Sequence):
            return out
        return Sequence(out[0] if isinstance(out, tuple) else out, x.mask).masked()


def everyone(x):
    return jnp.broadcast_to(x.mask[:, None, :], (*x.mask.shape, x.mask.shape[1]))


def connector(config):
    return make_connector(ModelConfig(connector=config, lm=tiny.LM))


def decoder(config):
    return Layer(Decoder(config, 9), 16, lambda x: (x.masked().values, count_positions(x.mask), prefix_lm_mask(x.mask)))


LAYERS = {
    "subsampling": Layer(Subsampling(8, 16), 8, lambda x: (x,)),
    "convolution": Layer(ConvModule(tiny.ENCODER, True), 16, lambda x: (x.masked().values, x.mask)),
    "attention": Layer(Attention(4, 2), 16, lambda x: (x.masked().values, positions(x.mask), everyone(x))),
    "block": Layer(
        ConformerBlock(tiny.ENCODER, True), 16, lambda x: (x.masked().values, None, positions(x.mask), x.mask)
    ),
    "conformer": Layer(Conformer(tiny.ENCODER), 8, lambda x: (x,), "encode"),
    "conformer without scan": Layer(Conformer(tiny.ENCODER, scan_layers=False), 8, lambda x: (x,), "encode"),
    "linear connector": Layer(connector(LinearConnectorConfig()), 8, lambda x: (x,)),
    "stacking connector": Layer(connector(StackMLPConnectorConfig(stack=3, hidden=12)), 8, lambda x: (x,)),
    "decoder": decoder(tiny.LM),
    **{f"decoder, {name}": decoder(config) for name, config in tiny.FAMILIES.items()},
}


@pytest.fixture(params=LAYERS, scope="module")
def layer(request):
    layer = LAYERS[request.param]
    x = tiny.sequence(LENGTHS, layer.width)
    params = layer.init(x)
    return jax.jit(layer.__call__), params, x


def test_nan_in_the_padding_changes_nothing(layer):
    apply, params, x = layer
    clean, dirty = apply(params, x), apply(params, tiny.poisoned(x))
    np.testing.assert_array_equal(clean.values, dirty.values)
    assert np.isfinite(clean.values).all()


def test_a_row_alone_equals_the_row_in_the_batch(layer):
    apply, params, x = layer
    together = apply(params, x)
    for i in range(len(LENGTHS)):
        alone = apply(params, tiny.row(x, i))
        np.testing.assert_allclose(alone.values[0], together.values[i], atol=2e-5)


def test_more_padding_changes_nothing(layer):
    apply, params, x = layer
    longer = Sequence(jnp.pad(x.values, ((0, 0), (0, 5), (0, 0))), jnp.pad(x.mask, ((0, 0), (0, 5))))
    short, long = apply(params, x), apply(params, longer)
    size = short.values.shape[1]
    np.testing.assert_allclose(long.values[:, :size], short.values, atol=2e-5)
    assert not long.mask[:, size:].any()


def test_padding_is_zero_on_return(layer):
    apply, params, x = layer
    out = apply(params, x)
    assert (np.asarray(out.values)[~np.asarray(out.mask)] == 0).all()
    assert np.abs(np.asarray(out.values)[np.asarray(out.mask)]).min() > 0


@pytest.mark.parametrize("length", range(1, 14))
def test_declared_length_is_the_output_length(length):
    module = Subsampling(8, 16)
    x = tiny.sequence([length], 8)
    out, _ = module.init_with_output(jax.random.key(0), x)
    assert int(out.lengths[0]) == Subsampling.output_length(length)


@pytest.mark.parametrize("length", range(1, 8))
@pytest.mark.parametrize("config", [LinearConnectorConfig(), StackMLPConnectorConfig(stack=3, hidden=12)])
def test_a_connector_declares_its_output_length(config, length):
    x = tiny.sequence([length], 8)
    out, _ = connector(config).init_with_output(jax.random.key(0), x)
    assert int(out.lengths[0]) == connector(config).output_length(length)
    assert out.values.shape[1] == connector(config).output_length(x.values.shape[1])


def test_the_stacking_connector_is_two_layers_on_frames_side_by_side():
    x = tiny.sequence([6], 8)
    module = connector(StackMLPConnectorConfig(stack=2, hidden=12))
    params = tiny.unbox(module.init(jax.random.key(0), x)["params"])
    found = module.apply({"params": params}, x).values[0, 1]
    hidden, out = params["hidden"], params["out"]
    pair = np.concatenate([x.values[0, 2], x.values[0, 3]])
    wanted = np.maximum(pair @ hidden["kernel"] + hidden["bias"], 0) @ out["kernel"] + out["bias"]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_encoder_reads_samples_through_its_own_frontend():
    """NaN and noise after the end of a recording change nothing, and the declared length is the output's."""
    encoder = Conformer(tiny.ENCODER)
    samples, lengths = tiny.speech([2050, 900])
    apply = jax.jit(encoder.apply)
    params = tiny.unbox(jax.jit(encoder.init)(jax.random.key(0), samples, lengths, tiny.statistics())["params"])
    out = apply({"params": params}, samples, lengths, tiny.statistics())
    np.testing.assert_array_equal(out.lengths, [encoder.output_length(2050), encoder.output_length(900)])
    behind = np.arange(samples.shape[1])[None, :] >= np.asarray(lengths)[:, None]
    dirty = apply({"params": params}, jnp.where(behind, jnp.nan, samples), lengths, tiny.statistics())
    np.testing.assert_array_equal(out.values, dirty.values)
    own = Statistics(np.zeros(3), np.ones(3), encoder=tiny.statistics())  # the target has other features
    np.testing.assert_allclose(apply({"params": params}, samples, lengths, own).values, out.values, atol=1e-5)


def test_scan_and_separate_layers_compute_the_same():
    x = tiny.sequence(LENGTHS, 8)
    scanned, separate = Conformer(tiny.ENCODER), Conformer(tiny.ENCODER, scan_layers=False)
    params = tiny.unbox(jax.jit(functools.partial(scanned.init, method="encode"))(jax.random.key(0), x)["params"])
    layers = params["layers"]["block"]
    unrolled = {key: value for key, value in params.items() if key != "layers"}
    unrolled |= {f"layers_{i}": jax.tree.map(lambda p, i=i: p[i], layers) for i in range(2)}
    a = jax.jit(functools.partial(scanned.apply, method="encode"))({"params": params}, x)
    b = jax.jit(functools.partial(separate.apply, method="encode"))({"params": unrolled}, x)
    np.testing.assert_allclose(a.values, b.values, atol=1e-5)


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_neither_values_nor_gradients(remat):
    x = tiny.sequence(LENGTHS, 8)
    params = tiny.unbox(Conformer(tiny.ENCODER).init(jax.random.key(0), x, method="encode")["params"])

    def loss(params, kind):
        encoded = Conformer(tiny.ENCODER, remat=kind).apply({"params": params}, x, method="encode")
        return jnp.square(encoded.values).sum()

    plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(params, kind) for kind in ("none", remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


def test_bfloat16_is_where_the_setting_says():
    x = tiny.sequence(LENGTHS, 8)
    module = Conformer(tiny.ENCODER, dtype=jnp.bfloat16)
    params = tiny.unbox(module.init(jax.random.key(0), x, method="encode")["params"])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    half, full = (m.apply({"params": params}, x, method="encode") for m in (module, Conformer(tiny.ENCODER)))
    assert half.values.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half.values, np.float32), full.values, atol=0.25)


def test_a_query_that_sees_nothing_gets_zeros():
    module = Attention(4, 2)
    x = tiny.sequence([4], 16).values
    nothing = jnp.zeros((1, 7, 7), bool)
    out, _ = module.init_with_output(jax.random.key(0), x, positions(jnp.ones((1, 7))), nothing)
    np.testing.assert_array_equal(out[0], 0)


def test_grouped_queries_share_keys():
    """With as many key heads as query heads and copied keys, grouped attention equals the full one."""
    x = tiny.sequence([6, 3], 16)
    arguments = (x.values, positions(x.mask), everyone(x))
    grouped, full = Attention(4, 2), Attention(4, 4)
    params = tiny.unbox(grouped.init(jax.random.key(0), *arguments)["params"])

    def widen(kernel):  # [16, 2 · 4] → [16, 4 · 4], every key head twice
        return jnp.repeat(kernel.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)

    copied = {**params, **{name: {"kernel": widen(params[name]["kernel"])} for name in ("key", "value")}}
    a, _ = grouped.apply({"params": params}, *arguments)
    b, _ = full.apply({"params": copied}, *arguments)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_rotary_attention_sees_distances_only():
    x = tiny.sequence([7], 16)
    module = Attention(4, 2)
    params = module.init(jax.random.key(0), x.values, positions(x.mask), everyone(x))
    here, _ = module.apply(params, x.values, positions(x.mask), everyone(x))
    there, _ = module.apply(params, x.values, positions(x.mask) + 11, everyone(x))
    np.testing.assert_allclose(here, there, atol=1e-5)


def test_specaugment_hides_at_most_its_share_and_only_real_frames():
    config = SpecAugmentConfig(num_freq_blocks=1, num_time_blocks=2, max_freq_fraction=0.25, max_time_fraction=0.1)
    x = Sequence(jnp.ones((64, 50, 16)), jnp.arange(50)[None] < jnp.full((64, 1), 40))
    out = np.asarray(specaugment(jax.random.key(0), x, config).values)
    bands_off = (out[:, :40] == 0).all(axis=1).sum(axis=1)
    frames_off = (out[:, :40] == 0).all(axis=2).sum(axis=1)
    assert bands_off.max() == 4 and frames_off.max() <= 8 and frames_off.max() >= 4
    assert bands_off.min() == 0 and (out[:, 40:] == 0).all()
    off = specaugment(jax.random.key(0), x, dataclasses.replace(config, num_freq_blocks=0, num_time_blocks=0))
    np.testing.assert_array_equal(off.values, x.masked().values)
