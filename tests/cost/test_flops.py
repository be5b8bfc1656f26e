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
    ObjectiveConfig,
    SpecAugmentConfig,
    StackMLPConnectorConfig,
    StreamConfig,
    load_experiment,
)
from spectron.cost import chips, flops
from spectron.cost.flops import Flops
from spectron.data.buckets import longest_shape
from spectron.data.order import BatchShape
from spectron.models.conformer import Conformer
from spectron.models.connectors import make_connector
from spectron.models.decoder import Decoder, empty_cache
from spectron.models.encoder import make_encoder
from spectron.models.segments import prefix_lm_mask
from spectron.objectives import Objective, make_objective, make_objectives
from spectron.objectives.base import step_flops
from spectron.parallel import sharding
from spectron.training.step import init_params
from spectron.types import Sequence, Statistics

NO_MASKS = SpecAugmentConfig(0, 0, 0.0, 0.0)
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


def objective_of(kind: str, **settings) -> Objective:
    """An objective of a model whose matrix products are nearly all of its operations."""
    experiment, features = tiny.experiment(), dataclasses.replace(tiny.FEATURES, num_mels=32)
    model = experiment.model
    model = dataclasses.replace(
        model,
        encoder=dataclasses.replace(
            model.encoder, features=features, dim=128, conv_channels=64, ff_multiple=4, specaugment=NO_MASKS
        ),
        lm=dataclasses.replace(model.lm, dim=128, ff_dim=512),
        frames=dataclasses.replace(model.frames, bottleneck=64, prenet_dropout=0.0),
        scan_layers=False,  # XLA counts the body of a loop once
    )
    experiment = dataclasses.replace(experiment, features=features, model=model)
    return make_objective(ObjectiveConfig.members[kind](**settings), experiment, tiny.statistics(32))


@pytest.mark.parametrize(
    ("agreement", "frozen"),
    [
        (0.0, ()),
        (0.0, ("encoder",)),
        (0.0, ("encoder", "lm")),
        (0.0, ("encoder", "connector", "lm", "prenet")),
        (1.0, ()),
    ],
)
def test_a_steps_formula_is_what_xla_counts_whatever_is_frozen(agreement, frozen):
    objective, batch = objective_of("spectron", agreement_weight=agreement), tiny.batch(4)
    whole = jax.eval_shape(lambda: sharding.unbox(objective.init(jax.random.key(0), batch)))
    trained = {part: tree for part, tree in whole.items() if part not in frozen}
    kept = {part: tree for part, tree in whole.items() if part in frozen}

    def loss(trained, kept, batch):
        return objective.loss({**trained, **kept}, batch, jax.random.key(0)).total()

    def spectrograms(batch):
        prompt = (objective.inputs(batch).prompt, batch.prompt_samples, objective.statistics)
        return objective.spectrograms(batch), make_encoder(objective.experiment.model).frontend(*prompt)

    found = counted(jax.value_and_grad(loss), trained, kept, batch) - counted(spectrograms, batch)
    shape = BatchShape(4, batch.samples.shape[1], batch.text.shape[1])
    assert step_flops([objective], [shape], trained).step == pytest.approx(found, rel=0.1)


def test_frozen_parts_leave_out_their_own_gradients_and_those_before_them():
    experiment = load_experiment(CONFIGS / "digits.py")
    whole = stage_flops(experiment, experiment.stage("joint").streams[:1])
    cost = {product.weights: product.forward for product in whole.products if product.part == "lm" and product.inputs}

    def step(*names):
        return whole.with_trained(names).step

    every = ("encoder/layers", "connector/kernel", "lm/layers", "lm/head", "prenet/down", "postnet/out", "stop/kernel")
    assert step(*every) == whole.step
    assert step(*every[1:]) == pytest.approx(
        whole.step - 2 * whole.part("encoder") + 1 * connector_forward(whole)
    )  # the connector's own gradient stays
    without_layers = [name for name in every if name != "lm/layers"]
    assert step(*without_layers) == pytest.approx(whole.step - cost["lm/layers"])  # but passes through them
    assert step("stop/kernel") < 1.1 * whole.forward
    text = stage_flops(experiment, experiment.stage("text").streams).with_trained(["encoder/layers"])
    assert text.step == text.forward
    ctc = stage_flops(experiment, experiment.stage("ctc").streams)
    assert ctc.with_trained(["ctc_head/kernel"]).backward == ctc.part("vocabulary")
    assert ctc.step == 3 * ctc.forward


def connector_forward(flops: Flops) -> float:
    return sum(product.forward for product in flops.products if product.weights == "connector")


def test_the_agreement_term_adds_a_forward_pass_and_no_logits_of_its_own():
    plain, both = (objective_of("spectron", agreement_weight=weight) for weight in (0.0, 1.0))
    shape = BatchShape(2, 8000, 5)
    alone, with_teacher = plain.flops(shape), both.flops(shape)
    assert with_teacher.part("vocabulary") == 2 * alone.part("vocabulary")  # the student's and the teacher's
    assert with_teacher.backward == alone.backward


def test_a_step_adds_up_its_streams():
    experiment = load_experiment(CONFIGS / "digits.py")
    joint, text = experiment.stage("joint").streams, experiment.stage("text").streams
    whole = stage_flops(experiment, joint)
    parts = [stage_flops(experiment, [stream]) for stream in joint]
    assert whole.step == pytest.approx(sum(part.step for part in parts))
    assert stage_flops(experiment, text).part("encoder") == 0
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
