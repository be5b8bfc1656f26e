"""The joint model: who may influence whom, and cached decoding against the uncached pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.models.decoder import Decoder, empty_cache
from spectron.models.segments import count_positions, prefix_lm_mask
from spectron.objectives.joint import feedback, go_frames, make_model
from spectron.types import Sequence

EXPERIMENT = tiny.experiment()
MODEL = make_model(EXPERIMENT)
VOCAB = 8


def inputs(seed=0):
    prompt = tiny.sequence([12, 9], 8, seed)
    tokens = tiny.sequence([4, 3], 1, seed)
    tokens = Sequence(
        jnp.where(tokens.mask, 2 + jnp.abs(tokens.values[..., 0] * 3).astype(jnp.int32) % 6, 0), tokens.mask
    )
    continuation = tiny.sequence([7, 9], 8, seed + 1)
    steps = feedback(continuation, go_frames(prompt, EXPERIMENT.model.frames), 2)
    return prompt, tokens, steps


@pytest.fixture(scope="module")
def params():
    return tiny.unbox(jax.jit(MODEL.init)(jax.random.key(0), *inputs())["params"])


@jax.jit
def run(params, prompt, tokens, steps):
    return MODEL.apply({"params": params}, prompt, tokens, steps)


def logits(params, out):
    return MODEL.apply({"params": params}, out.text_hidden, method="logits")


def reach(params, of, wrt):
    """|∂ of(output) / ∂ wrt(input)| summed over features, through embeddings for the tokens."""
    prompt, tokens, steps = inputs()

    def f(prompt_values, step_values):
        out = run(params, Sequence(prompt_values, prompt.mask), tokens, Sequence(step_values, steps.mask))
        return of(out)

    gradients = jax.grad(f, argnums=(0, 1))(prompt.values, steps.values)
    return np.abs(np.asarray(gradients[wrt])).sum(axis=-1)


def test_frames_never_see_the_future(params):
    per_step = EXPERIMENT.model.frames.frames_per_step
    for t in range(3):
        seen = reach(params, lambda out, t=t: out.frames[0, t * per_step].sum() + out.stop[0, t * per_step], 1)
        assert (seen[0, : t + 1] > 0).all() and (seen[0, t + 1 :] == 0).all() and (seen[1] == 0).all()


def test_text_sees_the_whole_prompt_and_no_frame(params):
    seen = reach(params, lambda out: logits(params, out)[0, 0].sum(), 0)
    assert (seen[0, :12] > 0).all() and (seen[0, 12:] == 0).all() and (seen[1] == 0).all()
    assert (reach(params, lambda out: logits(params, out)[0].sum(), 1) == 0).all()


def test_a_fused_kernel_is_told_the_prefix(params):
    """Splash attention, interpreted, gives what plain attention gives wherever something is."""
    lm = dataclasses.replace(EXPERIMENT.model.lm, attention="splash")
    experiment = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, lm=lm))
    prompt, tokens, steps = inputs()
    found = jax.jit(make_model(experiment).apply)({"params": params}, prompt, tokens, steps)
    wanted = run(params, prompt, tokens, steps)
    for name, mask in (("text_hidden", tokens.mask), ("frame_hidden", steps.mask)):
        here, there = (np.asarray(getattr(out, name))[np.asarray(mask)] for out in (found, wanted))
        np.testing.assert_allclose(here, there, atol=1e-4)


def test_text_is_causal(params):
    prompt, tokens, steps = inputs()
    changed = Sequence(tokens.values.at[0, 2].set(7 - tokens.values[0, 2] % 2), tokens.mask)
    assert int(changed.values[0, 2]) != int(tokens.values[0, 2])
    a, b = run(params, prompt, tokens, steps), run(params, prompt, changed, steps)
    a_logits, b_logits = logits(params, a), logits(params, b)
    np.testing.assert_array_equal(a_logits[0, :2], b_logits[0, :2])
    assert (np.asarray(a_logits[0, 2]) != np.asarray(b_logits[0, 2])).any()
    assert (np.asarray(a.frames[0]) != np.asarray(b.frames[0])).any(), "speech must follow the text"


def test_padding_and_neighbours_change_nothing(params):
    prompt, tokens, steps = inputs()
    clean = run(params, prompt, tokens, steps)
    dirty = run(params, tiny.poisoned(prompt), tokens, tiny.poisoned(steps))
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
    for i in range(2):
        alone = run(params, *(tiny.row(x, i) for x in (prompt, tokens, steps)))
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
