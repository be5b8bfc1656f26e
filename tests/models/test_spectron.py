"""The joint model: who may influence whom, and cached decoding against the uncached pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.config import LinearConnectorConfig, StackMLPConnectorConfig
from spectron.models.decoder import Decoder, empty_cache
from spectron.models.segments import count_positions, join, prefix_lm_mask
from spectron.models.spectron import prefix_length
from spectron.objectives.joint import feedback, go_frames, make_model
from spectron.types import Sequence

EXPERIMENT = tiny.experiment()
MODEL = make_model(EXPERIMENT)
VOCAB = 8


STATISTICS = tiny.statistics()
HOP = EXPERIMENT.features.hop


def inputs(seed=0):
    """Prompt samples, their lengths, tokens, frame steps."""
    samples, lengths = tiny.speech([12 * HOP, 9 * HOP], seed)
    tokens = tiny.sequence([4, 3], 1, seed)
    tokens = Sequence(
        jnp.where(tokens.mask, 2 + jnp.abs(tokens.values[..., 0] * 3).astype(jnp.int32) % 6, 0), tokens.mask
    )
    go = go_frames(tiny.sequence([12, 9], 8, seed), EXPERIMENT.model.frames)
    steps = feedback(tiny.sequence([7, 9], 8, seed + 1), go, 2)
    return samples, lengths, tokens, steps


@pytest.fixture(scope="module")
def params():
    return init(MODEL)


def init(model):
    samples, lengths, tokens, steps = inputs()
    init = jax.jit(model.init)
    return tiny.unbox(init(jax.random.key(0), samples, lengths, STATISTICS, tokens, steps)["params"])


@functools.partial(jax.jit, static_argnames="model")
def run(params, samples, lengths, tokens, steps, model=MODEL):
    return model.apply({"params": params}, samples, lengths, STATISTICS, tokens, steps)


def logits(params, out):
    return MODEL.apply({"params": params}, out.text_hidden, method="logits")


def reach(params, of, wrt, model=MODEL):
    """|∂ of(output) / ∂ wrt(input)|; 0: each sample of the prompt, 1: each frame step, summed over features."""
    samples, lengths, tokens, steps = inputs()

    def f(samples, step_values):
        return of(run(params, samples, lengths, tokens, Sequence(step_values, steps.mask), model))

    gradients = jax.grad(f, argnums=(0, 1))(samples, steps.values)
    gradient = np.abs(np.asarray(gradients[wrt]))
    return gradient.sum(axis=-1) if wrt else gradient.reshape(2, -1, HOP // 4).sum(axis=-1)


def test_frames_never_see_the_future(params):
    per_step = EXPERIMENT.model.frames.frames_per_step
    for t in range(3):
        seen = reach(params, lambda out, t=t: out.frames[0, t * per_step].sum() + out.stop[0, t * per_step], 1)
        assert (seen[0, : t + 1] > 0).all() and (seen[0, t + 1 :] == 0).all() and (seen[1] == 0).all()


def test_text_sees_the_whole_prompt_and_no_frame(params):
    seen = reach(params, lambda out: logits(params, out)[0, 0].sum(), 0)
    size = 12 * 4  # quarters of a hop
    assert (seen[0, :size] > 0).all() and (seen[0, size:] == 0).all() and (seen[1] == 0).all()
    assert (reach(params, lambda out: logits(params, out)[0].sum(), 1) == 0).all()


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_prefix_is_read_both_ways_or_causally(params, bidirectional):
    """The LM's first state depends on the end of the prompt, or does not; the encoder's first vector always does."""
    model = make_model(with_model(bidirectional_prefix=bidirectional))
    samples, lengths, *_ = inputs()

    @jax.jit
    def first_state(offset):
        segment = model.apply({"params": params}, samples, lengths, STATISTICS, method="prefix")
        joined = join([segment])
        arguments = joined.values.at[:, 2].add(offset), joined.positions, joined.attention_mask
        hidden, _ = model.apply({"params": params}, *arguments, method=lambda module, *x: module.lm(*x))
        return hidden[:, 0]

    moved = np.abs(np.asarray(first_state(1.0) - first_state(0.0)))
    assert (moved.max() > 1e-4) == bidirectional


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_fused_kernel_is_told_the_prefix(params, bidirectional):
    """Splash attention, interpreted, gives what plain attention gives wherever something is."""
    plain = with_model(bidirectional_prefix=bidirectional)
    fused = with_model(bidirectional_prefix=bidirectional, lm=dataclasses.replace(tiny.LM, attention="splash"))
    _, _, tokens, steps = arguments = inputs()
    found, wanted = (run(params, *arguments, make_model(experiment)) for experiment in (fused, plain))
    for name, mask in (("text_hidden", tokens.mask), ("frame_hidden", steps.mask)):
        here, there = (np.asarray(getattr(out, name))[np.asarray(mask)] for out in (found, wanted))
        np.testing.assert_allclose(here, there, atol=1e-4)


def with_model(**settings):
    return dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, **settings))


@pytest.mark.parametrize("connector", [LinearConnectorConfig(), StackMLPConnectorConfig(stack=2, hidden=12)])
@pytest.mark.parametrize("samples", [0, HOP - 1, HOP, 5 * HOP + 3, 13 * HOP])
def test_the_prefix_is_as_long_as_declared(connector, samples):
    experiment = with_model(connector=connector)
    speech = jnp.zeros((1, 14 * HOP)), jnp.asarray([samples])

    def prefix():
        return make_model(experiment).init_with_output(jax.random.key(0), *speech, STATISTICS, method="prefix")[0].mask

    mask = jax.jit(prefix)()
    assert int(mask.sum()) == prefix_length(experiment.model, samples)
    assert mask.shape[1] == prefix_length(experiment.model, 14 * HOP)


def test_text_is_causal(params):
    samples, lengths, tokens, steps = inputs()
    changed = Sequence(tokens.values.at[0, 2].set(7 - tokens.values[0, 2] % 2), tokens.mask)
    assert int(changed.values[0, 2]) != int(tokens.values[0, 2])
    a, b = run(params, samples, lengths, tokens, steps), run(params, samples, lengths, changed, steps)
    a_logits, b_logits = logits(params, a), logits(params, b)
    np.testing.assert_array_equal(a_logits[0, :2], b_logits[0, :2])
    assert (np.asarray(a_logits[0, 2]) != np.asarray(b_logits[0, 2])).any()
    assert (np.asarray(a.frames[0]) != np.asarray(b.frames[0])).any(), "speech must follow the text"


def test_padding_and_neighbours_change_nothing(params):
    samples, lengths, tokens, steps = inputs()
    clean = run(params, samples, lengths, tokens, steps)
    behind = np.arange(samples.shape[1])[None, :] >= np.asarray(lengths)[:, None]
    dirty = run(params, jnp.where(behind, jnp.nan, samples), lengths, tokens, tiny.poisoned(steps))
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(2):
        alone = run(params, *jax.tree.map(lambda x, i=i: x[i : i + 1], (samples, lengths, tokens, steps)))
        for whole, mine in zip(clean, alone, strict=True):
            np.testing.assert_allclose(mine[0], whole[i], atol=3e-5)


def test_prefix_lm_visibility():
    mask = jnp.asarray([[True, True, True, True, False]])
    prefix = jnp.asarray([[True, True, False, False, False]])
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    np.testing.assert_array_equal(prefix_lm_mask(mask, prefix)[0], np.asarray(expected, bool))


@pytest.mark.parametrize("scan", [True, False])
def test_cached_steps_equal_the_whole_pass(scan):
    decoder = Decoder(tiny.LM, VOCAB, scan_layers=scan)
    x = tiny.sequence([9, 6], 16)
    prefix = 4
    inside = jnp.broadcast_to(jnp.arange(x.mask.shape[1]) < prefix, x.mask.shape)
    attention_mask, positions = prefix_lm_mask(x.mask, inside), count_positions(x.mask)
    params = tiny.unbox(jax.jit(decoder.init)(jax.random.key(0), x.values, positions, attention_mask)["params"])
    apply = jax.jit(decoder.apply)
    whole, _ = apply({"params": params}, x.values, positions, attention_mask)

    size = x.mask.shape[1]
    cache = empty_cache(tiny.LM, 2, size, scan=scan)
    part, cache = apply(
        {"params": params}, x.values[:, :prefix], positions[:, :prefix], attention_mask[:, :prefix, :prefix], cache
    )
    pieces = [part]
    for t in range(prefix, size):
        at = slice(t, t + 1)
        part, cache = apply({"params": params}, x.values[:, at], positions[:, at], None, cache)
        pieces.append(part)
    stepwise = np.concatenate(pieces, axis=1)
    np.testing.assert_allclose(np.where(x.mask[..., None], stepwise - whole, 0), 0, atol=2e-5)
