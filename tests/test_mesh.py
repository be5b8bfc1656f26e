"""Eight simulated devices: layouts that are real, and the same numbers as on one. One subprocess asks all questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent

PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from spectron import sharding, step
from spectron.types import Statistics
from tiny_run import experiment, noise_batch

config = experiment("model.lm.dropout=0", "model.encoder.dropout=0")
stage = config.stage("speech")
statistics = Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))
batches = tuple(noise_batch(config, s.mixture, s.batch_size, 0, 0) for s in stage.streams)


def first_step(sizes, devices):
    mesh = sharding.make_mesh(sizes, devices)
    with jax.set_mesh(mesh):
        plan = step.make_plan(config, stage, statistics, batches, mesh)
        put = plan.put(batches)
        state, metrics = plan.step(plan.init(), put)
        return state, put, {name: float(value) for name, value in metrics.items()}


_, _, one = first_step((("data", 1),), jax.devices()[:1])
state, put, eight = first_step((("data", 2), ("fsdp", 2), ("tensor", 2)), jax.devices())
specs = {jax.tree_util.keystr(p): str(x.sharding.spec) for p, x in jax.tree_util.tree_leaves_with_path(state.params)}
moments = {jax.tree_util.keystr(p): str(x.sharding.spec) for p, x in jax.tree_util.tree_leaves_with_path(state.opt_state)}
with jax.set_mesh(sharding.make_mesh((("data", 2), ("fsdp", 2), ("tensor", 2)))):
    out = jax.jit(lambda x: sharding.constrain(x * 2, "batch", "length", "mlp"))(jnp.ones((8, 3, 16)))
print("RESULT" + json.dumps({
    "one": one, "eight": eight, "specs": specs, "moments": moments,
    "batch": str(put[0].samples.sharding.spec), "constrained": str(out.sharding.spec),
    "shard": list(put[0].samples.addressable_shards[0].data.shape),
}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("RESULT")[2])


def test_constrain_gives_a_real_output_sharding(result):
    assert result["constrained"] == "PartitionSpec(('data', 'fsdp'), None, 'tensor')"


def test_rows_are_spread_over_the_batch_axes(result):
    assert result["batch"] == "PartitionSpec(('data', 'fsdp'), None)"
    assert result["shard"][0] == 2


def test_parameters_and_their_moments_are_spread_alike(result):
    spread = {name: spec for name, spec in result["specs"].items() if "fsdp" in spec or "tensor" in spec}
    assert len(spread) > len(result["specs"]) / 4
    for name, spec in spread.items():
        assert [s for path, s in result["moments"].items() if path.endswith(name)] == [spec, spec]


def test_the_first_step_is_the_same_as_on_one_device(result):
    assert result["one"].keys() == result["eight"].keys()
    for name, value in result["one"].items():
        np.testing.assert_allclose(result["eight"][name], value, rtol=1e-5, atol=1e-5, err_msg=name)
