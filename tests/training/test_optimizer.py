"""Schedules, optimizers and multipliers by path, Muon's choice of matrices, averages."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spectron.config import AdamConfig, FrozenConfig, MuonConfig, StageConfig
from spectron.training.optimizer import (
    learning_rates,
    make_optimizer,
    multiplier_tree,
    muon_dimensions,
    schedule,
    split_frozen,
    update_ema,
)
from spectron.types import UserError

KINDS = {"adam": AdamConfig, "muon": MuonConfig}


def plain(kind="adam", **changes):
    """A constant learning rate without warm-up."""
    return KINDS[kind](**{"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0} | changes)


def stage(optimizer, clip_norm=0.0, optimizers=()):
    return StageConfig("s", (), 10, optimizer, optimizers=optimizers, clip_norm=clip_norm)


def first_update(stage, params, grads):
    optimizer = make_optimizer(stage, params)
    return jax.jit(lambda g: optimizer.update(g, optimizer.init(params), params)[0])(grads)


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
    config = AdamConfig(learning_rate=2.0, warmup_steps=10, final_fraction=0.05)
    for name in ("cosine", "linear"):
        rate = schedule(dataclasses.replace(config, schedule=name), 100)
        assert float(rate(0)) == pytest.approx(0.2)
        assert float(rate(9)) == pytest.approx(2.0)
        assert float(rate(55)) == pytest.approx(2.0 * (0.05 + 0.95 * 0.5))
        assert float(rate(100)) == pytest.approx(0.1)
        assert float(rate(1000)) == pytest.approx(0.1)
    rsqrt = schedule(dataclasses.replace(config, schedule="rsqrt"), 100)
    assert float(rsqrt(39)) == pytest.approx(1.0)
    assert float(schedule(dataclasses.replace(config, schedule="constant"), 100)(99)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": plain(lr_multipliers=(("enoder", 0.1),))}, "optimizer.lr_multipliers: no parameter.*'enoder'"),
        (
            {"optimizers": (("enoder", plain()),)},
            "optimizers: no parameter's path starts with 'enoder'; the parts .*prenet",
        ),
        ({"optimizer": FrozenConfig()}, "all parameters are frozen"),
    ],
)
def test_what_cannot_be_is_one_sentence(change, words):
    changed = dataclasses.replace(stage(plain()), **change)
    with pytest.raises(UserError, match=words):
        make_optimizer(changed, split_frozen(changed, params())[0])


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
    updates = first_update(stage(plain("muon")), p, jax.tree.map(lambda x: x * 0.3, p))
    alone = {"prenet": {"dense": {"kernel": p["encoder"]["layers"]["mlp"]["kernel"][1]}}}
    expected = first_update(stage(plain("muon")), alone, jax.tree.map(lambda x: x * 0.3, alone))
    got = updates["encoder"]["layers"]["mlp"]["kernel"][1]
    np.testing.assert_allclose(got, expected["prenet"]["dense"]["kernel"], atol=3e-6)
    assert np.linalg.svd(np.asarray(got))[1].min() > 0.03  # orthogonal up to the iteration's slack


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_multipliers_scale_the_step_and_the_longest_prefix_wins(kind):
    p = params()
    grads = jax.tree.map(jnp.ones_like, p)
    multipliers = (("lm", 0.5), ("lm/text_head", 0.25), ("encoder", 0.1))
    whole = first_update(stage(plain(kind)), p, grads)
    scaled = first_update(stage(plain(kind, lr_multipliers=multipliers)), p, grads)
    for path, multiplier in (
        (("lm", "embedding", "embedding"), 0.5),
        (("lm", "text_head", "kernel"), 0.25),
        (("encoder", "layers", "mlp", "bias"), 0.1),
        (("prenet", "dense", "kernel"), 1.0),
    ):
        a, b = whole, scaled
        for key in path:
            a, b = a[key], b[key]
        assert np.abs(a).min() > 0
        np.testing.assert_allclose(b, a * multiplier, rtol=1e-6)
    config = stage(plain(lr_multipliers=(("enc", 2.0), ("encoder", 0.1))))
    assert multiplier_tree(config, {"enc": {"w": 0}, "encoder": {"w": 0}}) == {"enc": {"w": 2.0}, "encoder": {"w": 0.1}}


def test_each_path_has_its_own_optimizer():
    p = params()
    grads = jax.tree.map(lambda x: x * 0.3, p)
    muon, adam = plain("muon"), plain(learning_rate=0.01)
    mixed = stage(muon, optimizers=(("lm", adam), ("lm/layers", plain("muon", learning_rate=0.5))))
    updates = first_update(mixed, p, grads)
    by_muon, by_adam = first_update(stage(muon), p, grads), first_update(stage(adam), p, grads)
    same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), a, b)  # noqa: E731
    same(updates["encoder"], by_muon["encoder"])
    same(updates["lm"]["text_head"], by_adam["lm"]["text_head"])
    same(updates["lm"]["layers"], jax.tree.map(lambda x: 5 * x, by_muon["lm"]["layers"]))
    rates = {name: float(rate(3)) for name, rate in learning_rates(mixed, p).items()}
    assert rates == pytest.approx({"learning_rate": 0.1, "learning_rate/lm": 0.01, "learning_rate/lm/layers": 0.5})


@pytest.mark.parametrize("kind", ["adam", "muon"])
def test_weight_decay_reaches_every_matrix_and_nothing_else(kind):
    """Under Muon too, which leaves some matrices to AdamW: each decays at the learning rate that it is updated with."""
    p = params()
    p["encoder"]["layers"]["depthwise"] = {"kernel": jnp.ones((3, 5, 4))}
    config = plain(kind, weight_decay=0.5)
    if kind == "muon":
        config = dataclasses.replace(config, adam_learning_rate=0.01)
    updates = first_update(stage(config), p, jax.tree.map(jnp.zeros_like, p))
    by_adam = {"embedding", "text_head", "depthwise"} if kind == "muon" else set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(p):
        names = [entry.key for entry in path]
        rate = 0.0 if names[-1] in {"bias", "scale"} else 0.01 if by_adam & set(names) else 0.1
        update = functools.reduce(lambda tree, name: tree[name], names, updates)
        np.testing.assert_allclose(update, -rate * 0.5 * leaf, rtol=1e-5, err_msg="/".join(names))


@pytest.mark.parametrize("optimizers", [(), (("lm", plain()),)])
def test_clipping_is_by_the_global_norm_of_all_that_is_trained(optimizers):
    optimizer = make_optimizer(stage(plain(), 1.0, optimizers), params())
    big = jax.tree.map(lambda x: 100.0 * x, params())
    state = optimizer.update(big, optimizer.init(params()), params())[1]
    moments = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if ".mu" in jax.tree_util.keystr(path)]
    assert float(optax.tree.norm(moments)) == pytest.approx((1 - plain().b1) * 1.0, rel=1e-4)


def test_frozen_parameters_are_separate_and_have_no_optimizer_state():
    p = params()
    frozen_lm = stage(plain("muon"), optimizers=(("lm", FrozenConfig()), ("lm/text_head", plain())))
    trained, frozen = split_frozen(frozen_lm, p)
    assert set(trained) == {"encoder", "lm", "prenet"} and set(trained["lm"]) == {"text_head"}
    assert set(frozen) == {"lm"} and set(frozen["lm"]) == {"embedding", "layers"}
    state = jax.eval_shape(make_optimizer(frozen_lm, trained).init, trained)
    kept = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert any("text_head" in path for path in kept) and not any("embedding" in path for path in kept)


def test_the_average_forgets_its_start_and_then_is_slow():
    ema = {"w": jnp.zeros(())}
    for step in range(200):
        ema = update_ema(ema, {"w": jnp.ones(())}, jnp.asarray(step), 0.99)
    assert float(ema["w"]) > 0.999
    slow = update_ema({"w": jnp.zeros(())}, {"w": jnp.ones(())}, jnp.asarray(10**6), 0.99)
    assert float(slow["w"]) == pytest.approx(0.01, rel=1e-3)
