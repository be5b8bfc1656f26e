"""Schedules, factors, Muon's choice of matrices, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spectron.config import OptimizerConfig
from spectron.training.optimizer import (
    factor_tree,
    freeze,
    make_optimizer,
    muon_dimensions,
    schedule,
    update_ema,
)
from spectron.types import UserError

PLAIN = OptimizerConfig(schedule="constant", warmup_steps=0, clip_norm=0.0, learning_rate=0.1)


def params():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "encoder": {
            "layers": {
                "mlp": {"kernel": array(3, 4, 6), "bias": array(3, 6)},
                "norm": {"scale": array(3, 4)},
            }
        },
        "lm": {
            "embedding": {"embedding": array(5, 4)},
            "layers": {
                "attention": {
                    "query": {"kernel": array(3, 4, 2, 2)},
                    "out": {"kernel": array(3, 2, 2, 4)},
                }
            },
            "text_head": {"kernel": array(4, 5)},
        },
        "prenet": {"dense": {"kernel": array(4, 4)}},
    }


def test_schedule_warms_up_from_the_first_step_and_ends_at_the_final_fraction():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.05)
    for name in ("cosine", "linear"):
        rate = schedule(OptimizerConfig(**{**vars(config), "schedule": name}), 100)
        assert float(rate(0)) == pytest.approx(0.2)
        assert float(rate(9)) == pytest.approx(2.0)
        assert float(rate(55)) == pytest.approx(2.0 * (0.05 + 0.95 * 0.5))
        assert float(rate(100)) == pytest.approx(0.1)
        assert float(rate(1000)) == pytest.approx(0.1)
    rsqrt = schedule(OptimizerConfig(**{**vars(config), "schedule": "rsqrt"}), 100)
    assert float(rsqrt(39)) == pytest.approx(1.0)
    assert float(schedule(OptimizerConfig(**{**vars(config), "schedule": "constant"}), 100)(99)) == pytest.approx(2.0)


@pytest.mark.parametrize("change", [{"name": "adan"}, {"schedule": "cosin"}, {"factors": (("enoder", 0.1),)}])
def test_a_wrong_name_is_one_sentence(change):
    with pytest.raises(
        UserError,
        match=next(iter(dict(change["factors"]))) if "factors" in change else "there is no",
    ):
        make_optimizer(OptimizerConfig(**change), params(), 10)


def test_muon_takes_the_matrices_and_knows_stacks_and_heads():
    dims = muon_dimensions(params())
    assert dims["encoder"]["layers"]["mlp"]["kernel"] == ((1,), (2,))
    assert dims["lm"]["layers"]["attention"]["query"]["kernel"] == ((1,), (2, 3))
    assert dims["lm"]["layers"]["attention"]["out"]["kernel"] == ((1, 2), (3,))
    assert dims["prenet"]["dense"]["kernel"] == ((0,), (1,))
    assert dims["encoder"]["layers"]["mlp"]["bias"] is None
    assert dims["encoder"]["layers"]["norm"]["scale"] is None
    assert dims["lm"]["embedding"]["embedding"] is None
    assert dims["lm"]["text_head"]["kernel"] is None


def test_muon_treats_each_layer_of_a_stack_as_its_own_matrix():
    p = params()
    grads = jax.tree.map(lambda x: x * 0.3, p)
    optimizer = make_optimizer(OptimizerConfig(**{**vars(PLAIN), "name": "muon"}), p, 10)
    updates, _ = jax.jit(lambda g: optimizer.update(g, optimizer.init(p), p))(grads)
    alone = {"prenet": {"dense": {"kernel": p["encoder"]["layers"]["mlp"]["kernel"][1]}}}
    one = make_optimizer(OptimizerConfig(**{**vars(PLAIN), "name": "muon"}), alone, 10)
    expected, _ = one.update(jax.tree.map(lambda x: x * 0.3, alone), one.init(alone), alone)
    got = updates["encoder"]["layers"]["mlp"]["kernel"][1]
    np.testing.assert_allclose(got, expected["prenet"]["dense"]["kernel"], atol=1e-6)
    assert np.linalg.svd(np.asarray(got))[1].min() > 0.03  # orthogonal up to the iteration's slack


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_factors_scale_the_step_and_the_longest_prefix_wins(name):
    p = params()
    grads = jax.tree.map(jnp.ones_like, p)
    factors = (("lm", 0.5), ("lm/text_head", 0.0), ("encoder", 0.1))

    def steps(config):
        optimizer = make_optimizer(config, p, 10)
        return jax.jit(lambda g: optimizer.update(g, optimizer.init(p), p)[0])(grads)

    plain = steps(OptimizerConfig(**{**vars(PLAIN), "name": name}))
    scaled = steps(OptimizerConfig(**{**vars(PLAIN), "name": name, "factors": factors}))
    for path, factor in (
        (("lm", "embedding", "embedding"), 0.5),
        (("encoder", "layers", "mlp", "bias"), 0.1),
    ):
        a, b = plain, scaled
        for key in path:
            a, b = a[key], b[key]
        assert np.abs(a).min() > 0
        np.testing.assert_allclose(b, a * factor, rtol=1e-6)
    assert not np.asarray(scaled["lm"]["text_head"]["kernel"]).any()
    np.testing.assert_array_equal(scaled["prenet"]["dense"]["kernel"], plain["prenet"]["dense"]["kernel"])
    assert factor_tree(
        OptimizerConfig(factors=(("enc", 2.0), ("encoder", 0.1))),
        {"enc": p, "encoder": p},
    )["enc"]


def test_weight_decay_reaches_matrices_only():
    p = params()
    zeros = jax.tree.map(jnp.zeros_like, p)
    optimizer = make_optimizer(OptimizerConfig(**{**vars(PLAIN), "weight_decay": 0.5}), p, 10)
    updates, _ = optimizer.update(zeros, optimizer.init(p), p)
    np.testing.assert_allclose(
        updates["prenet"]["dense"]["kernel"],
        -0.05 * p["prenet"]["dense"]["kernel"],
        rtol=1e-5,
    )
    assert not np.asarray(updates["encoder"]["layers"]["mlp"]["bias"]).any()
    assert not np.asarray(updates["encoder"]["layers"]["norm"]["scale"]).any()


def test_clipping_is_by_the_global_norm():
    optimizer = make_optimizer(OptimizerConfig(**{**vars(PLAIN), "clip_norm": 1.0}), params(), 10)
    big = jax.tree.map(lambda x: 100.0 * x, params())
    state = optimizer.update(big, optimizer.init(params()), params())[1]
    mu = optax.tree_utils.tree_get(state, "mu")
    assert float(optax.tree.norm(mu)) == pytest.approx((1 - PLAIN.b1) * 1.0, rel=1e-4)


def test_frozen_parts_get_no_gradient():
    p = params()
    factors = factor_tree(OptimizerConfig(factors=(("encoder", 0.0),)), p)
    grads = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(freeze(p, factors))))(p)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads["encoder"]))
    assert all(np.asarray(x).any() for x in jax.tree.leaves(grads["lm"]))


def test_the_average_forgets_its_start_and_then_is_slow():
    ema = {"w": jnp.zeros(())}
    for step in range(200):
        ema = update_ema(ema, {"w": jnp.ones(())}, jnp.asarray(step), 0.99)
    assert float(ema["w"]) > 0.999
    slow = update_ema({"w": jnp.zeros(())}, {"w": jnp.ones(())}, jnp.asarray(10**6), 0.99)
    assert float(slow["w"]) == pytest.approx(0.01, rel=1e-3)
