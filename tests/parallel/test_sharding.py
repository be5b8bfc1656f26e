"""Meshes and layouts. Runs on however many devices there are; test_mesh.py runs on eight."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from spectron.parallel import sharding
from spectron.types import UserError

MESH = AbstractMesh((1, 2, 2, 2), sharding.AXES, axis_types=(AxisType.Auto,) * 4)


@pytest.mark.parametrize(
    ("names", "shape", "expected"),
    [
        (("batch", "length", "embed"), (8, 3, 16), PartitionSpec(("data", "fsdp"), None, None)),
        (
            ("batch", "length", "embed"),
            (2, 3, 16),
            PartitionSpec("data", None, "fsdp"),
        ),  # fsdp does not divide the rows
        (("batch", "length", "vocab"), (1, 3, 10), PartitionSpec(None, None, "tensor")),
        (("embed", "mlp"), (16, 32), PartitionSpec("fsdp", "tensor")),
        (("layers", "embed", "heads", "kv"), (4, 16, 2, 8), PartitionSpec(None, "fsdp", "tensor", None)),
        (("embed", "vocab"), (16, 11), PartitionSpec("fsdp", None)),
        ((None, "embed"), (8, 5), PartitionSpec(None, None)),
    ],
)
def test_logical_names_become_mesh_axes_that_divide(names, shape, expected):
    assert sharding.partition_spec(names, shape, MESH) == expected


def test_a_misspelt_axis_fails_even_without_a_mesh():
    with pytest.raises(ValueError, match=r"unknown logical axis 'bacth'.*known: batch"):
        sharding.constrain(jnp.zeros((2, 3)), "bacth", "length")
    with pytest.raises(ValueError, match="2 logical names"):
        sharding.constrain(jnp.zeros((2, 3, 4)), "batch", "length")


def test_constrain_returns_the_same_array_without_a_mesh():
    x = jnp.ones((2, 3))
    assert sharding.constrain(x, "batch", "length") is x


def test_mesh_uses_every_device_by_default():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == sharding.AXES
    assert mesh.shape["data"] == len(jax.devices())
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((("modle", 1),), "no axis 'modle'"),
        ((("data", 64),), "data=64"),
        ((("data", -1), ("fsdp", -1)), "data=-1, fsdp=-1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(sizes, words):
    with pytest.raises(UserError, match=words):
        sharding.make_mesh(sizes)


def test_optimizer_state_is_laid_out_like_its_parameters():
    mesh = sharding.make_mesh()
    boxed = {
        "a": {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 4), np.float32), ("batch", "mlp"))},
        "b": {"kernel": jax.ShapeDtypeStruct((8, 4), np.float32)},
    }
    params = sharding.param_shardings(boxed, mesh)
    state = {"mu": sharding.unbox(boxed), "count": jax.ShapeDtypeStruct((), np.int32)}
    found = sharding.shardings_like(state, params, mesh)
    assert found["mu"]["a"]["kernel"] == params["a"]["kernel"]
    assert found["mu"]["b"]["kernel"] == sharding.replicated(mesh)
    assert found["count"] == sharding.replicated(mesh)


def test_put_batch_keeps_values_and_empty_axes():
    mesh = sharding.make_mesh()
    rows = sharding.batch_shards(mesh)
    batch = {"x": np.arange(rows * 6, dtype=np.int16).reshape(rows, 6), "empty": np.zeros((rows, 0), np.int16)}
    put = sharding.put_batch(batch, mesh)
    np.testing.assert_array_equal(put["x"], batch["x"])
    assert put["empty"].shape == (rows, 0)
