"""FLOPs by formula against what XLA counts in the compiled program; the sizes of the paper's configs."""

import dataclasses
import functools
from collections.abc import Sequence as Seq
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inference.test_decode import make_generator
from models import tiny

from spectron.compile.aot import templates
from spectron.config import (
    ConformerConfig,
    Experiment,
    FeatureConfig,
    LinearConnectorConfig,
    LMConfig,
    ModelConfig,
    StackMLPConnectorConfig,
    StreamConfig,
    load_experiment,
)
from spectron.cost import chips, flops
from spectron.cost.flops import Flops
from spectron.data.buckets import longest_shape
from spectron.models.conformer import Conformer
from spectron.models.connectors import make_connector
from spectron.models.decoder import Decoder, empty_cache
from spectron.models.segments import prefix_lm_mask
from spectron.objectives import make_objectives
from spectron.objectives.base import step_flops
from spectron.parallel import sharding
from spectron.training.step import init_params
from spectron.types import Sequence, Statistics

CONFIGS = Path(__file__).parents[2] / "configs"


def counted(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_the_encoders_formula_is_what_xla_counts():
    features = FeatureConfig(num_mels=80)
    config = ConformerConfig(features=features, dim=192, num_layers=2, num_heads=4, conv_channels=128, dropout=0.0)
    model = Conformer(config, scan_layers=False)
    mel = Sequence(jnp.zeros((1, 200, 80)), jnp.ones((1, 200), bool))
    params = jax.eval_shape(functools.partial(model.init, method="encode"), jax.random.key(0), mel)
    found = counted(lambda p, x: model.apply(p, x, method="encode").values, params, mel)
    # XLA also counts norms, softmax and activations.
    assert model.flops(200 * features.hop) == pytest.approx(found, rel=0.06)
    assert model.flops(200 * features.hop) < found


@pytest.mark.parametrize("options", [{}, {"head_dim": 32, "gated": False}])
def test_the_lms_formula_is_what_xla_counts(options):
    config = LMConfig(dim=192, num_layers=2, num_heads=4, num_kv_heads=2, ff_dim=512, **options)
    model = Decoder(config, 100, scan_layers=False)
    x, mask = jnp.zeros((1, 160, 192)), jnp.ones((1, 160), bool)

    def run(params, x):
        return model.apply(params, x, jnp.arange(160)[None], prefix_lm_mask(mask, mask))[0]

    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x, jnp.arange(160)[None], prefix_lm_mask(mask, mask)))
    found = counted(run, params, x)
    assert flops.lm_flops(config, 160, 160) == pytest.approx(found, rel=0.06)
    causal, both = flops.lm_flops(config, 0, 160), flops.lm_flops(config, 160, 160)
    width = config.num_heads * config.head_width
    assert both - causal == pytest.approx(2 * 2 * 2 * width * 160 * 159 / 2)  # layers, two products, multiply-add


@pytest.mark.parametrize("config", [LinearConnectorConfig(), StackMLPConnectorConfig(stack=4, hidden=256)])
def test_the_connectors_formula_is_what_xla_counts(config):
    connector = make_connector(ModelConfig(connector=config, lm=LMConfig(dim=192)))
    encoded = Sequence(jnp.zeros((1, 40, 128)), jnp.ones((1, 40), bool))
    params = jax.eval_shape(connector.init, jax.random.key(0), encoded)
    found = counted(lambda p, x: connector.apply(p, x).values, params, encoded)
    assert connector.flops(128, 40) == pytest.approx(found, rel=0.02)


def stage_flops(experiment: Experiment, streams: Seq[StreamConfig]) -> Flops:
    shapes = [longest_shape(experiment.data, experiment.features, stream.batch_size) for stream in streams]
    return step_flops(make_objectives(streams, experiment), shapes)


def test_a_step_adds_up_its_streams():
    experiment = load_experiment(CONFIGS / "digits.py")
    joint, text = experiment.stage("joint").streams, experiment.stage("text").streams
    whole = stage_flops(experiment, joint)
    parts = [stage_flops(experiment, [stream]) for stream in joint]
    assert whole.step == pytest.approx(sum(part.step for part in parts))
    assert 0 < whole.detached < whole.lm + whole.vocabulary  # the teacher of the agreement term
    assert stage_flops(experiment, text).encoder == 0
    assert whole.with_frozen(["encoder"]).step == pytest.approx(whole.step - 2 * whole.encoder)
    trained_lm = whole.lm + whole.vocabulary - whole.detached
    assert whole.with_frozen(["lm"]).step == pytest.approx(whole.step - trained_lm)
    assert whole.with_frozen(["connector"]) == whole.with_frozen([]) == whole
    twice = [dataclasses.replace(joint[0], batch_size=32)]
    assert stage_flops(experiment, twice).step == pytest.approx(2 * parts[0].step)


@pytest.mark.parametrize(
    ("name", "lm"), [("spectron_350m", 350e6), ("spectron_1b", 1e9), ("spectron_7b", 7e9)], ids=["350m", "1b", "7b"]
)
def test_the_papers_sizes(name, lm):
    """600 M of encoder and so many of LM, its tied embedding of 256,000 included, within 3 %."""
    experiment = load_experiment(CONFIGS / f"{name}.py")
    stage = experiment.stages[-1]
    rows = [jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), b) for b in templates(experiment, stage)]
    ones = np.ones(experiment.features.num_mels, np.float32)
    objectives = make_objectives(stage.streams, experiment, Statistics(0 * ones, ones))
    params = sharding.unbox(jax.eval_shape(lambda: init_params(objectives, rows, 0)))
    sizes = {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in params.items()}
    assert sizes["encoder"] == pytest.approx(600e6, rel=0.03)
    assert sizes["lm"] == pytest.approx(lm, rel=0.03)
    assert params["lm"]["embedding"].shape[0] == 256_000


def test_chips_are_known_by_the_names_jax_gives_them():
    assert chips.chip_of("TPU v5 lite").name == chips.chip_of("TPU v5e").name == "v5e"
    assert chips.chip_of("cpu") is None
    assert chips.peak_flops(jax.devices()) == 0


@pytest.mark.parametrize("tied", [False, True])
def test_bytes_of_a_decoding_step_are_those_of_its_weights_and_cache(tied):
    """Against the sizes of the arrays that decoding holds; norms and biases, which the formula leaves out, aside."""
    experiment = tiny.experiment()
    lm = dataclasses.replace(experiment.model.lm, tie_embeddings=tied)
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, lm=lm))
    weights = make_generator(experiment).weights

    def size(tree):
        return sum(x.nbytes for x in jax.tree.leaves(tree) if x.ndim > 1)

    layers = size({name: tree for name, tree in weights["lm"].items() if name.startswith("layers_")})
    head = size(weights["lm"]["embedding"] if tied else weights["lm"]["head"])
    cache = sum(x.nbytes for x in jax.tree.leaves(empty_cache(lm, 3, 8)))
    heard = flops.position_bytes(experiment, 7, 3)
    assert heard["text"] == layers + head + cache
    assert heard["frames"] == layers + size([weights[part] for part in ("prenet", "postnet", "stop")]) + cache
