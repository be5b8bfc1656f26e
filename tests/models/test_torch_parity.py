"""Ours against the same model written plainly in PyTorch (benchmarks/): losses, gradients, Muon, decoding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import tiny

from spectron.config import AdamConfig, JointConfig, MuonConfig, StageConfig, StreamConfig, TextLMConfig
from spectron.inference.decode import decode
from spectron.inference.decode_config import DecodeConfig
from spectron.models.decode_layout import to_decode_layout
from spectron.objectives import make_objective

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it comes with the extra 'parity'")

from benchmarks import torch_decoding, torch_training  # noqa: E402
from benchmarks.torch_twin import Twin  # noqa: E402

EXPERIMENT = tiny.experiment()
LOSS = JointConfig(alignment_weight=0.5, agreement_weight=0.5)
STATISTICS = tiny.statistics()


@pytest.fixture(scope="module")
def objective():
    return make_objective(LOSS, EXPERIMENT, STATISTICS)


@pytest.fixture(scope="module")
def params(objective):
    return tiny.unbox(jax.jit(objective.init)(jax.random.key(0), tiny.batch()))


@pytest.fixture(scope="module")
def both(objective, params):
    """Our losses and gradients without dropout, the twin's terms, and the twin with its gradients."""
    batch = tiny.batch(5)
    # Agreement speaks of unscored tokens only.
    batch = batch.replace(text_loss_mask=batch.text_mask & (jnp.arange(5) < 2))

    def loss(params):
        losses = objective.loss(params, batch, jax.random.key(1), train=False)
        return losses.total(), losses.means()

    (total, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    twin = make_twin(params)
    theirs = torch_training.joint_terms(twin, torch_training.to_torch(batch))
    torch_training.total(twin, theirs).backward()
    return {**terms, "loss": total}, grads, {**theirs, "loss": torch_training.total(twin, theirs)}, twin


def make_twin(params, experiment=EXPERIMENT):
    twin = Twin(experiment, STATISTICS, LOSS).eval()
    twin.load_state_dict(torch_training.laid_out(params))
    return twin


def test_every_parameter_has_its_place(params, both):
    twin = both[3]
    assert sum(p.numel() for p in twin.parameters()) == sum(x.size for x in jax.tree.leaves(params))


def test_features_are_the_same(objective):
    batch = tiny.batch(5)
    twin = Twin(EXPERIMENT, STATISTICS, LOSS)
    for ours, theirs in zip(
        objective.spectrograms(batch), torch_training.features(twin, torch_training.to_torch(batch)), strict=True
    ):
        np.testing.assert_array_equal(ours.mask, theirs[1])
        np.testing.assert_allclose(ours.values, theirs[0], atol=1e-4)


def test_losses_are_the_same(both):
    ours, _, theirs, _ = both
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(value.item(), rel=1e-4), name


def test_gradients_are_the_same(both):
    _, grads, _, twin = both
    theirs = dict(twin.named_parameters())
    for name, ours in torch_training.laid_out(grads).items():
        scale = ours.abs().max().item()
        assert scale > 0, f"{name} has no gradient"
        np.testing.assert_allclose(theirs[name].grad, ours, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("prefix_tokens", [0, 3])
def test_text_alone_is_the_same(params, prefix_tokens):
    batch = tiny.batch(5)
    objective = make_objective(TextLMConfig(), EXPERIMENT, STATISTICS)
    twin, theirs = make_twin(params), torch_training.to_torch(batch)
    prefix = np.minimum(np.asarray(batch.text_mask).sum(axis=1) - 1, prefix_tokens)
    logits = objective.lm.apply(
        {"params": params["lm"]}, batch.text, batch.text_mask, jnp.asarray(prefix), method="score"
    )
    expected = twin.lm.score(theirs.text, theirs.text_mask, torch.tensor(prefix)).detach()
    real = np.asarray(batch.text_mask)
    np.testing.assert_allclose(np.asarray(logits)[real], expected[theirs.text_mask], atol=1e-4)
    means = objective.loss(params, batch, jax.random.key(0)).means()
    for name, value in torch_training.text_terms(twin, theirs, 0).items():
        assert float(means[name]) == pytest.approx(value.item(), rel=1e-4), name


def test_muon_moves_matrices_alike():
    """optax's and the twin's, over noise: late, as optax corrects its average's start and published Muon does not."""
    rng = np.random.default_rng(0)
    ours = {"kernel": jnp.zeros((24, 16))}
    optimizer = optax.contrib.muon(0.02)
    update, state = jax.jit(optimizer.update), optimizer.init(ours)
    theirs = torch.nn.Parameter(torch.zeros(16, 24))  # [out, in]
    muon = torch_training.Muon([theirs], lr=0.02)
    for _ in range(150):  # 0.95¹⁵⁰ is 5e-4
        grad = rng.normal(size=(24, 16)).astype(np.float32)
        moved, state = update({"kernel": grad}, state, ours)
        before, theirs.grad = theirs.detach().clone(), torch.tensor(grad.T.copy())
        muon.step()
    expected = np.asarray(moved["kernel"])
    np.testing.assert_allclose((theirs.detach() - before).T, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("reader", ["cached_reader", "uncached_reader"])
@pytest.mark.parametrize("bias", [-1e3, 0.0])
def test_decoding_is_the_same(params, reader, bias):
    frames = dataclasses.replace(EXPERIMENT.model.frames, dropout_in_decoding=False)
    experiment = dataclasses.replace(EXPERIMENT, model=dataclasses.replace(EXPERIMENT.model, frames=frames))
    moved = {**params, "stop": {**params["stop"], "bias": params["stop"]["bias"] + bias}}
    batch, config = tiny.batch(6), DecodeConfig.from_experiment(experiment)
    samples = batch.samples[:, :4000]
    keys = jax.random.split(jax.random.key(0), 6)
    weights = to_decode_layout(moved, jnp.float32)
    ours = decode(weights, STATISTICS, samples, batch.prompt_samples, keys, config=config)
    theirs = torch_decoding.speak(
        make_twin(moved, experiment),
        torch.tensor(np.array(samples)),
        torch.tensor(np.array(batch.prompt_samples)),
        config.text_tokens,
        config.frame_steps,
        getattr(torch_decoding, reader),
    )
    np.testing.assert_array_equal(ours.text, theirs.text)
    np.testing.assert_array_equal(ours.num_frames, theirs.num_frames)
    for mine, other, count in zip(ours.frames, theirs.frames, theirs.num_frames, strict=True):
        np.testing.assert_allclose(mine[:count], other[:count], atol=1e-3)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_a_step_of_the_twin_moves_every_parameter(params, name):
    """What benchmarks/step.py times; all of it learns."""
    kind = {"adam": AdamConfig, "muon": MuonConfig}[name]
    optimizer = kind(0.01, warmup_steps=1, lr_multipliers=(("encoder", 0.5),))
    streams = (StreamConfig(JointConfig(), "", 3), StreamConfig(TextLMConfig(), "", 3, weight=0.3))
    twin = make_twin(params).train()
    before = {key: value.clone() for key, value in twin.named_parameters()}
    step = torch_training.make_step(twin, StageConfig("joint", streams, 100, optimizer, ema_decay=0.9))
    torch.manual_seed(0)
    for _ in range(3):  # SpecAugment and dropout may hide a part from one step
        metrics = step(tiny.batch(3), tiny.batch(3, seed=1))
    assert all(value.isfinite() for value in metrics.values())
    assert {key for key, value in twin.named_parameters() if torch.equal(value, before[key])} == set()
