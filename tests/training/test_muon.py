"""Muon against its definition written in numpy, over several steps, and through a restart in the middle."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import NoiseFeed, experiment, stands

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import MuonConfig, StageConfig
from spectron.training import loop, step
from spectron.training.metrics import RATES
from spectron.training.optimizer import make_optimizer

RATE, ADAM_RATE, DECAY, MULTIPLIER, CLIP = 0.1, 0.02, 0.3, 0.25, 0.7
B1, B2, BETA, EPSILON = 0.9, 0.95, 0.95, 1e-8  # BETA: Muon's momentum
STEPS = 4

# By path: shape, whether Muon updates it, whether it decays, and how many leading axes are a stack of layers.
PARAMETERS = {
    ("encoder", "layers", "up", "kernel"): ((2, 4, 6), True, True, 1),
    ("encoder", "layers", "up", "bias"): ((2, 6), False, False, 1),
    ("encoder", "layers", "depthwise", "kernel"): ((2, 3, 4), False, True, 1),
    ("lm", "embedding"): ((7, 4), False, True, 0),
    ("lm", "head", "kernel"): ((4, 7), False, True, 0),
    ("prenet", "down", "kernel"): ((8, 4), True, True, 0),  # more rows than columns
    ("prenet", "down", "bias"): ((4,), False, False, 0),
}


def nested(flat):
    tree = {}
    for path, leaf in flat.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def value(tree, path):
    for name in path:
        tree = tree[name]
    return np.asarray(tree, np.float64)


def orthogonal(matrix):
    """Five quintic Newton-Schulz iterations on the matrix divided by its Frobenius norm, the wide way round."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.linalg.norm(matrix) + EPSILON)
    x = x.T if x.shape[0] > x.shape[1] else x
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    return x * np.sqrt(max(1.0, matrix.shape[1] / matrix.shape[0]))


def by_hand(start, gradients):
    """Parameters after each step: clip, momentum with Nesterov, orthogonalise or divide by deviations, decay, rate."""
    params = {path: np.asarray(x, np.float64) for path, x in start.items()}
    first = {path: np.zeros_like(x) for path, x in params.items()}
    second = {path: np.zeros_like(x) for path, x in params.items()}
    for t, step_gradients in enumerate(gradients, 1):
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in step_gradients.values()))
        for path, (_, muon, decays, stacked) in PARAMETERS.items():
            gradient = step_gradients[path] * min(1.0, CLIP / norm)
            beta = BETA if muon else B1
            first[path] = beta * first[path] + (1 - beta) * gradient
            second[path] = B2 * second[path] + (1 - B2) * np.square(gradient)
            ahead = beta * first[path] / (1 - beta ** (t + 1)) + (1 - beta) * gradient / (1 - beta**t)
            if muon:
                update = np.stack([orthogonal(x) for x in ahead]) if stacked else orthogonal(ahead)
            else:
                update = ahead / (np.sqrt(second[path] / (1 - B2**t)) + EPSILON)
            update = update + DECAY * decays * params[path]
            rate = (RATE if muon else ADAM_RATE) * (MULTIPLIER if path[0] == "encoder" else 1.0)
            params[path] = params[path] - rate * update
    return params


def test_it_is_the_definition():
    rng = np.random.default_rng(0)
    start = {path: rng.normal(size=shape).astype(np.float32) for path, (shape, *_) in PARAMETERS.items()}
    gradients = [{path: rng.normal(size=x.shape).astype(np.float32) for path, x in start.items()} for _ in range(STEPS)]
    config = MuonConfig(
        RATE,
        schedule="constant",
        warmup_steps=0,
        b1=B1,
        b2=B2,
        weight_decay=DECAY,
        adam_learning_rate=ADAM_RATE,
        lr_multipliers=(("encoder", MULTIPLIER),),
    )
    params = nested({path: jnp.asarray(x) for path, x in start.items()})
    optimizer = make_optimizer(StageConfig("s", (), 10, config, clip_norm=CLIP), params)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for each in gradients:
        updates, state = update(nested(each), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    wanted = by_hand(start, gradients)
    for path in PARAMETERS:
        np.testing.assert_allclose(value(params, path), wanted[path], atol=2e-5, err_msg="/".join(path))


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if name not in RATES} for line in lines]


@pytest.mark.parametrize("others", [(), (("lm", {"kind": "adam", "weight_decay": 0.1}),)], ids=["muon", "beside adam"])
def test_a_restart_changes_nothing(tmp_path, monkeypatch, others):
    """To the bit: momenta, second moments and the step of the schedule are saved, for each of its two optimizers."""
    monkeypatch.setattr(loop, "make_feed", NoiseFeed)
    monkeypatch.setattr(step, "make_objectives", stands)
    muon = {"kind": "muon", "weight_decay": 0.1, "adam_learning_rate": 0.003, "warmup_steps": 2}
    config = experiment(
        f"stages.speech.optimizer={json.dumps(muon)}",
        f"stages.speech.optimizers={json.dumps(others)}",
        *("stages.speech.start_from=[]", "stages.speech.steps=6", "stages.speech.accumulate=2"),
    )
    config = dataclasses.replace(config, stages=(config.stage("speech"),))
    assert loop.train(config, tmp_path / "whole")
    assert not loop.train(config, tmp_path / "parts", stop_after=2)
    assert not loop.train(config, tmp_path / "parts", stop_after=3)
    assert loop.train(config, tmp_path / "parts")
    assert rows(tmp_path / "parts" / "speech") == rows(tmp_path / "whole" / "speech")
    for prefer_ema in (False, True):
        pair = [Checkpoint.open(tmp_path / name).load(prefer_ema=prefer_ema) for name in ("parts", "whole")]
        jax.tree.map(np.testing.assert_array_equal, *pair)
