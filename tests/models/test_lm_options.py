"""The LM's options: parameters, values against plain numpy, and decoding step by step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.config import LMConfig
from spectron.models.decode_layout import to_decode_layout
from spectron.models.decoder import Decoder, empty_cache
from spectron.models.segments import Segment, join
from spectron.types import UserError

VOCAB = 11
DEFAULT = dataclasses.replace(tiny.LM, num_layers=1)
# One option at a time: its settings, and the parameters it adds or reshapes (below layers_0 where they start with a /).
OPTIONS = {
    "default": ({}, {"/attention/query/kernel": (16, 16), "/attention/key/kernel": (16, 8), "head/kernel": (16, 11)}),
    "head width": (
        {"head_dim": 6},
        {"/attention/query/kernel": (16, 24), "/attention/value/kernel": (16, 12), "/attention/out/kernel": (24, 16)},
    ),
    "attention scale": ({"attention_scale": 0.2}, {}),
    "query, key and value biases": ({"qkv_bias": True}, {"/attention/query/bias": (16,), "/attention/key/bias": (8,)}),
    "output bias": ({"out_bias": True}, {"/attention/out/bias": (16,)}),
    "feed-forward biases": ({"ff_bias": True}, {"/ff/gate/bias": (24,), "/ff/up/bias": (24,), "/ff/down/bias": (16,)}),
    "gelu": ({"activation": "gelu"}, {}),
    "silu": ({"activation": "silu"}, {}),
    "relu": ({"activation": "relu"}, {}),
    "plain feed-forward": ({"gated": False}, {"/ff/gate/kernel": None, "/ff/up/kernel": (16, 24)}),
    "plain feed-forward with biases": ({"gated": False, "ff_bias": True}, {"/ff/up/bias": (24,)}),
    "layer norm": ({"norm": "layer"}, {"/ff_norm/bias": (16,), "final_norm/bias": (16,)}),
    "epsilon": ({"norm_epsilon": 0.1}, {}),
    "scale offset": ({"norm_offset": 1.0}, {"/attention_norm/scale": (16,)}),
    "learned positions": ({"positions": "learned", "max_positions": 20}, {"position_embedding": (20, 16)}),
    "no positions": ({"positions": "none"}, {"position_embedding": None}),
    "rotary base": ({"rope_base": 50.0}, {}),
    "embedding scale": ({"embedding_scale": 4.0}, {}),
    "tied embeddings": ({"tie_embeddings": True}, {"head/kernel": None, "embedding": (11, 16)}),
    "scale of tied logits": ({"tie_embeddings": True, "tied_logit_scale": 1.0}, {"head/kernel": None}),
}

ERF = np.vectorize(math.erf)
ACTIVATIONS = {
    "gelu": lambda x: x * (1 + ERF(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}


def inputs():
    mask = jnp.asarray([[True] * 7, [True] * 5 + [False] * 2])
    return jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (2, 7)), jnp.int32), mask


def parameters(config):
    tokens, mask = inputs()
    decoder = Decoder(config, VOCAB, scan_layers=False)
    return decoder, tiny.unbox(
        decoder.init(jax.random.key(0), tokens, mask, jnp.zeros(2, int), method="score")["params"]
    )


def reference(params, tokens, config: LMConfig):
    """Logits [T, V] of one row without padding, a query at a time."""

    def dense(tree, x):
        return x @ tree["kernel"] + tree.get("bias", 0.0)

    def norm(tree, x):
        if config.norm == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
            return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_epsilon) * tree["scale"] + tree["bias"]
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_epsilon)
        return x * (tree["scale"] + config.norm_offset)

    def rotate(x, position):
        if config.positions != "rotary":
            return x
        half = len(x) // 2
        angles = position * config.rope_base ** (-np.arange(half) / half)
        pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag])

    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = params["embedding"][np.asarray(tokens)] * config.embedding_scale
    if config.positions == "learned":
        x = x + params["position_embedding"][: len(x)]
    width = config.head_dim or config.dim // config.num_heads
    for layer in range(config.num_layers):
        block = params[f"layers_{layer}"]
        y = norm(block["attention_norm"], x)
        query, key, value = (
            dense(block["attention"][name], y).reshape(len(x), -1, width) for name in ("query", "key", "value")
        )
        mixed = np.zeros((len(x), config.num_heads, width))
        for t in range(len(x)):
            for head in range(config.num_heads):
                shared = head * config.num_kv_heads // config.num_heads
                scores = np.array([rotate(query[t, head], t) @ rotate(key[s, shared], s) for s in range(t + 1)])
                weights = np.exp(scores * (config.attention_scale or width**-0.5))
                mixed[t, head] = weights / weights.sum() @ value[: t + 1, shared]
        x = x + dense(block["attention"]["out"], mixed.reshape(len(x), -1))
        y, activate = norm(block["ff_norm"], x), ACTIVATIONS[config.activation]
        up = dense(block["ff"]["up"], y)
        x = x + dense(
            block["ff"]["down"], activate(dense(block["ff"]["gate"], y)) * up if config.gated else activate(up)
        )
    x = norm(params["final_norm"], x)
    if config.tie_embeddings:
        return x @ params["embedding"].T * (config.tied_logit_scale or config.dim**-0.5)
    return dense(params["head"], x)


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_has_its_parameters_and_its_values(name):
    settings, shapes = OPTIONS[name]
    config = dataclasses.replace(DEFAULT, **settings)
    decoder, params = parameters(config)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    for path, shape in shapes.items():
        assert found.get(f"layers_0{path}" if path.startswith("/") else path) == shape, path
    tokens, mask = inputs()
    logits = decoder.apply({"params": params}, tokens, mask, jnp.zeros(2, jnp.int32), method="score")
    for row, length in enumerate((7, 5)):
        wanted = reference(params, tokens[row, :length], config)
        np.testing.assert_allclose(logits[row, :length], wanted, atol=3e-5, rtol=3e-5)


def test_the_options_change_the_values():
    """Otherwise the test above would pass with an option that nothing reads."""
    tokens = np.arange(7)
    base = reference(parameters(DEFAULT)[1], tokens, DEFAULT)
    for name, (settings, shapes) in OPTIONS.items():
        if settings and not shapes:
            config = dataclasses.replace(DEFAULT, **settings)
            assert np.abs(reference(parameters(config)[1], tokens, config) - base).max() > 1e-4, name


@pytest.mark.parametrize("name", tiny.FAMILIES)
@pytest.mark.parametrize("layout", ["scanned", "decode layout"])
def test_cached_steps_equal_the_whole_pass(name, layout):
    config = tiny.FAMILIES[name]
    scan = layout == "scanned"
    tokens, mask = inputs()
    whole = Decoder(config, VOCAB, scan_layers=scan)
    no_prefix = jnp.zeros(2, jnp.int32)
    init = jax.jit(whole.init, static_argnames="method")
    params = tiny.unbox(init(jax.random.key(0), tokens, mask, no_prefix, method="score")["params"])
    wanted = jax.jit(whole.apply, static_argnames="method")({"params": params}, tokens, mask, no_prefix, method="score")
    if not scan:
        params = to_decode_layout({"encoder": {}, "lm": params}, jnp.float32)["lm"]

    @jax.jit
    def step(token, position, cache):
        vectors = whole.apply({"params": params}, token[:, None], method="embed")
        hidden, cache = whole.apply({"params": params}, vectors, position[:, None], None, cache)
        return whole.apply({"params": params}, hidden, method="logits")[:, 0], cache

    cache = empty_cache(config, 2, 7, scan=scan)
    for t in range(7):
        logits, cache = step(tokens[:, t], jnp.full(2, t), cache)
        real = np.asarray(mask[:, t])
        np.testing.assert_allclose(np.asarray(logits)[real], np.asarray(wanted[:, t])[real], atol=5e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "learned", "max_positions": 3}, "7 positions is longer than model.lm.max_positions 3"),
    ],
)
def test_an_impossible_option_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        parameters(dataclasses.replace(DEFAULT, **settings))


def test_a_cache_longer_than_the_learned_positions_is_refused():
    with pytest.raises(UserError, match="max_positions 40"):
        empty_cache(tiny.FAMILIES["gpt2"], 1, 41)


def test_families_take_a_bidirectional_prefix():
    """The contract tests run causal masks; the prefix of Spectron is not."""
    decoder, params = parameters(tiny.FAMILIES["gemma"])
    x = tiny.sequence([6], 16)
    joined = join([Segment(x.values[:, :4], x.mask[:, :4], True), Segment(x.values[:, 4:], x.mask[:, 4:])])
    arguments = (joined.values, joined.positions, joined.attention_mask)
    hidden, _ = decoder.apply({"params": params}, *arguments)
    moved, _ = decoder.apply({"params": params}, joined.values.at[0, 3].add(1.0), *arguments[1:])
    assert np.abs(hidden[0, 0] - moved[0, 0]).max() > 1e-4
