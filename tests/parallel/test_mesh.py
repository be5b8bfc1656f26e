"""Eight simulated devices: layouts that are real, and the same numbers as on one."""

import json

import numpy as np
import pytest

PROGRAM = """
import json, sys
sys.path.insert(0, "tests")
import jax, jax.numpy as jnp, numpy as np
from spectron.parallel import sharding
from spectron.training import step
from spectron.types import Statistics
from tiny_run import experiment, noise_batch

config = experiment(
    "model.lm.dropout=0", "model.encoder.dropout=0",
    "stages.joint.streams.spectron.objective.alignment_weight=1",
    "stages.joint.streams.spectron.objective.agreement_weight=1"
)
statistics = Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))


def first_step(name, sizes, devices):
    stage = config.stage(name)
    batches = tuple(noise_batch(config, s.mixture, s.batch_size, 0, 0) for s in stage.streams)
    mesh = sharding.make_mesh(sizes, devices)
    with jax.set_mesh(mesh):
        program = step.make_program(config, stage, statistics, batches, mesh)
        put = program.put(batches)
        state, metrics = program.step(program.init(), put)
        return state, put, {name: float(value) for name, value in metrics.items()}


one = first_step("joint", (("data", 1),), jax.devices()[:1])[-1]
state, put, eight = first_step("joint", (("data", 2), ("fsdp", 2), ("tensor", 2)), jax.devices())


def layout(tree):
    return {jax.tree_util.keystr(p): list(x.sharding.spec) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


specs, moments = layout(state.params), layout(state.opt_state)
with jax.set_mesh(sharding.make_mesh((("data", 2), ("fsdp", 2), ("tensor", 2)))):
    out = jax.jit(lambda x: sharding.constrain(x * 2, "batch", "length", "mlp"))(jnp.ones((8, 3, 16)))
print("RESULT" + json.dumps({
    "one": one, "eight": eight, "specs": specs, "moments": moments,
    "batch": list(put[0].samples.sharding.spec), "constrained": list(out.sharding.spec),
    "shard": list(put[0].samples.addressable_shards[0].data.shape),
}))
"""


@pytest.mark.slow
def test_layouts_are_real_and_the_first_step_is_the_same_as_on_one_device(run_python):
    result = json.loads(run_python(PROGRAM, devices=8).stdout.partition("RESULT")[2])
    assert result["constrained"] == [["data", "fsdp"], None, "tensor"]
    assert result["batch"] == [["data", "fsdp"], None]
    assert result["shard"][0] == 2
    spread = {name: spec for name, spec in result["specs"].items() if "fsdp" in spec or "tensor" in spec}
    assert len(spread) > len(result["specs"]) / 4
    for name, spec in spread.items():  # Adam's two moments lie where their parameter lies
        assert [s for path, s in result["moments"].items() if path.endswith(name)] == [spec, spec]
    assert result["one"].keys() == result["eight"].keys()
    for name, value in result["one"].items():
        np.testing.assert_allclose(result["eight"][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
