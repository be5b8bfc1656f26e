"""Objectives: what they read, what they score, and the joint loss put together by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import tiny

from spectron.audio.features import log_mel, normalise
from spectron.config import ObjectiveConfig
from spectron.objectives import losses, make_objective
from spectron.objectives.joint import feedback, go_frames, window
from spectron.types import Sequence, length_mask

STATISTICS = tiny.statistics()


def made(name, experiment=None, **settings):
    config = ObjectiveConfig.members[name](**settings)
    objective = make_objective(config, experiment or tiny.experiment(), STATISTICS)
    return objective, tiny.unbox(jax.jit(objective.init)(jax.random.key(0), tiny.batch()))


def loss(objective, params, batch, train=False, key=0):
    """Compiled: op by op it takes ten times as long."""
    return jax.jit(objective.loss, static_argnames="train")(params, batch, jax.random.key(key), train=train)


@pytest.mark.parametrize("name", ["text_lm", "ctc", "spectron"])
def test_init_makes_its_parts_and_every_parameter_is_trained(name):
    objective, params = made(name)
    assert set(params) == set(objective.parts)
    batch = tiny.batch()
    gradients = jax.jit(jax.grad(lambda p: objective.loss(p, batch, jax.random.key(1)).total()))(params)
    idle = [jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(gradients) if not np.any(g)]
    assert idle == []


@pytest.mark.parametrize("name", ["text_lm", "ctc", "spectron"])
def test_the_loss_adds_over_halves_of_a_batch(name):
    objective, params = made(name)
    whole = tiny.batch(4)
    halves = [jax.tree.map(lambda x, i=i: x[2 * i : 2 * i + 2], whole) for i in range(2)]
    once = loss(objective, params, whole)
    first, second = (loss(objective, params, half) for half in halves)
    twice = first + second
    for key, value in once.means().items():
        np.testing.assert_allclose(value, twice.means()[key], rtol=2e-4)


def test_the_joint_loss_is_the_papers_sum():
    objective, params = made("spectron", reconstruction_weight=0.1, stop_weight=0.5)
    found = loss(objective, params, tiny.batch()).means()
    spectral = sum(found[k] for k in ("frames", "delta_freq", "delta_time_1", "delta_time_2", "delta_time_3"))
    assert float(found["loss"]) == pytest.approx(float(found["text"] + 0.1 * spectral + 0.5 * found["stop"]), rel=1e-6)
    assert "alignment" not in found


def test_alignment_asks_each_step_for_the_token_of_its_middle():
    objective, params = made("spectron", alignment_weight=0.5)
    batch = tiny.batch(2)
    hop = objective.features.hop
    prompt = np.asarray(batch.prompt_samples) // hop * hop
    np.testing.assert_array_equal(objective.middles(batch, 3), prompt[:, None] + np.asarray([[1, 3, 5]]) * hop)
    plain = loss(made("spectron")[0], params, batch).means()
    found = loss(objective, params, batch).means()
    assert float(found["alignment"]) > 0
    assert float(found["loss"]) == pytest.approx(float(plain["loss"] + 0.5 * found["alignment"]), rel=1e-5)
    nobody_knows = batch.replace(token_ends=batch.token_ends * 0)
    assert float(loss(objective, params, nobody_knows).means()["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-6)


def test_prompt_hears_nothing_behind_its_end_and_the_continuation_follows_it():
    objective, _ = made("spectron")
    batch = tiny.batch()
    prompt, continuation = objective.spectrograms(batch)
    behind = np.arange(8000)[None] >= batch.prompt_samples[:, None]
    louder = batch.replace(samples=jnp.where(behind, 30_000, batch.samples).astype(jnp.int16))
    again, changed = objective.spectrograms(louder)
    np.testing.assert_array_equal(prompt.values, again.values)
    assert (np.asarray(continuation.values) != np.asarray(changed.values)).any()
    whole = normalise(log_mel(batch.samples, batch.num_samples, objective.experiment.features), STATISTICS)
    for i, start in enumerate(batch.prompt_samples // 200):
        count = min(int(batch.num_samples[i] // 200 - start), objective.num_frames)
        assert int(continuation.lengths[i]) == count
        np.testing.assert_allclose(continuation.values[i, :count], whole.values[i, start : start + count], atol=1e-6)


def test_go_frame_is_the_prompts_last_and_feedback_is_a_shift():
    prompt = tiny.sequence([5, 1], 8)
    config = tiny.experiment().model.frames
    go = np.asarray(go_frames(prompt, config))
    np.testing.assert_array_equal(go[0], prompt.values[0, 3:5])
    np.testing.assert_array_equal(go[1], np.stack([np.zeros(8), prompt.values[1, 0]]))
    frames = Sequence(jnp.arange(2 * 6 * 8, dtype=jnp.float32).reshape(2, 6, 8), length_mask(jnp.asarray([6, 3]), 6))
    fed = feedback(frames, jnp.asarray(go), 2)
    np.testing.assert_array_equal(fed.lengths, [3, 2])
    np.testing.assert_array_equal(fed.values[0].reshape(6, 8)[2:], frames.values[0, :4])
    np.testing.assert_array_equal(fed.values[1, 2], 0)


def test_window_reads_from_each_rows_own_start():
    x = Sequence(jnp.arange(10.0).reshape(2, 5, 1), length_mask(jnp.asarray([5, 3]), 5))
    out = window(x, jnp.asarray([3, 1]), 4)
    np.testing.assert_array_equal(out.values[..., 0], [[3, 4, 0, 0], [6, 7, 0, 0]])
    np.testing.assert_array_equal(out.lengths, [2, 2])


def test_unscored_tokens_carry_no_cross_entropy():
    objective, params = made("spectron")
    batch = tiny.batch()
    first = length_mask(jnp.ones(3, int), 5) & batch.text_mask
    part = batch.replace(text_loss_mask=first)
    found = loss(objective, params, part).terms
    assert float(found["text"].weight) == 3
    whole = loss(objective, params, batch).terms
    assert float(whole["frames"].sum) == pytest.approx(float(found["frames"].sum))


def test_prefix_lm_scores_only_what_it_cannot_see():
    """With a prefix the targets inside it are visible; a model that copies them must gain nothing."""
    objective, params = made("text_lm", prefix_tokens=4)
    batch = tiny.batch(64)
    term = loss(objective, params, batch, train=True).terms["text_lm"]
    assert 64 <= float(term.weight) < batch.text_mask.sum()
    plain, _ = made("text_lm")
    assert float(loss(plain, params, batch, train=True).terms["text_lm"].weight) == batch.text_mask.sum()


def test_ctc_does_not_ask_for_eos():
    objective, params = made("ctc")
    batch = tiny.batch()
    weight = loss(objective, params, batch, train=True).terms["ctc"].weight
    assert float(weight) == (batch.text_mask & (batch.text != 1)).sum()


def test_ctc_counts_the_rows_that_cannot_be_aligned():
    """Three rows of ten encoder frames, one of which is cut to a single frame."""
    objective, params = made("ctc")
    batch = tiny.batch()
    whole = loss(objective, params, batch).means()
    short = loss(objective, params, batch.replace(num_samples=batch.num_samples.at[0].set(800)))
    assert float(whole["ctc_unalignable"]) == 0 and float(short.means()["ctc_unalignable"]) == pytest.approx(1 / 3)
    assert float(short.means()["loss"]) == float(short.means()["ctc"]) < 10


def test_cross_entropy_matches_the_models_own_logits():
    objective, params = made("spectron")
    batch = tiny.batch()
    out = objective.model.apply({"params": params}, **objective.inputs(batch)._asdict())
    logits = objective.logits(params, out.text_hidden)
    expected = losses.cross_entropy(logits, batch.text, batch.text_mask)
    found = loss(objective, params, batch).terms["text"]
    assert float(found.sum) == pytest.approx(float(expected.sum), rel=1e-5)
