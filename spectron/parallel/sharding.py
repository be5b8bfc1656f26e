"""Device meshes, the table of logical axes, and host batches → global arrays.

The only file that knows mesh axis names, beside the one that chooses sizes for them (compile/meshes.py). Models speak
logical names ("batch", "embed", …); RULES maps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from spectron.types import Array, Params, UserError

AXES = ("replica", "data", "fsdp", "tensor")  # slowest network first: slices, then chips of a slice

# In order of precedence. A mesh axis is used once per array: if "batch" uses "fsdp", the width is not split.
RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("batch", ("replica", "data", "fsdp")),
    # The hidden vectors of tokens are smaller than the vocabulary's table: in their product the rows are gathered over
    # the axes that split the table, and the table itself is never gathered.
    ("rows", ("replica", "data")),
    ("vocab", ("tensor", "fsdp")),
    ("mlp", ("tensor",)),  # hidden width of a feed-forward or a convolution module
    ("heads", ("tensor",)),  # query heads or key-value heads
    ("embed", ("fsdp",)),  # model width D
    ("kv", ()),  # width of one head
    ("length", ()),  # any time-like axis: text, frames, samples
    ("layers", ()),  # the axis that nn.scan adds
    ("conv", ()),  # taps and channels of small kernels
    ("mel", ()),  # mel bands, bottlenecks, anything too small to split
)


def make_mesh(sizes: Sequence[tuple[str, int]] = (), devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with all four axes. Axes not named have size 1, () puts every device on "data", -1 takes what is left.

    Raises UserError for an unknown axis or a product that is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    wanted = dict(sizes) if sizes else {"data": len(devices)}
    for name in wanted:
        if name not in AXES:
            raise UserError(f"mesh: there is no axis {name!r}; use {', '.join(AXES)}.")
    fixed = int(np.prod([size for size in wanted.values() if size != -1], dtype=np.int64))
    open_axes = [name for name, size in wanted.items() if size == -1]
    if len(open_axes) == 1 and fixed > 0 and len(devices) % fixed == 0:
        wanted[open_axes[0]] = len(devices) // fixed
        fixed = len(devices)
    if len(open_axes) > 1 or fixed != len(devices) or any(size < 1 for size in wanted.values()):
        given = ", ".join(f"{name}={size}" for name, size in dict(sizes).items())
        raise UserError(
            f"mesh: {given} does not use exactly the {len(devices)} devices present; change `mesh` in the config."
        )
    shape = tuple(wanted.get(name, 1) for name in AXES)
    return Mesh(_arranged(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: Sequence[tuple[str, int]]) -> AbstractMesh:
    """A mesh with all four axes and no devices, for shapes of shards. Axes not named have size 1."""
    shape = tuple(dict(sizes).get(name, 1) for name in AXES)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices arranged so that neighbours along an axis are neighbours in the network; slices lie along "replica"."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices > 1:
        if shape[0] % slices:
            raise UserError(f"mesh: {slices} slices need a replica axis that is a multiple of {slices}; set replica=.")
        within, across = (shape[0] // slices, *shape[1:]), (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def partition_spec(names: Sequence[str | None], shape: Sequence[int], mesh: Any) -> PartitionSpec:
    """Logical names of an array's axes → PartitionSpec. Mesh axes that do not divide a dimension are dropped.

    Raises ValueError for a name that is not in RULES (flax would replicate it silently) or a wrong rank.
    """
    rules = dict(RULES)
    if len(names) != len(shape):
        raise ValueError(f"{len(names)} logical names {tuple(names)} for an array of shape {tuple(shape)}")
    unknown = [name for name in names if name is not None and name not in rules]
    if unknown:
        raise ValueError(f"unknown logical axis {unknown[0]!r} in {tuple(names)}; known: {', '.join(rules)}")
    sizes = dict(mesh.shape)
    used: set[str] = set()
    chosen: dict[int, tuple[str, ...]] = {}
    for name, mesh_axes in RULES:
        for dim in (i for i, n in enumerate(names) if n == name):
            free = [axis for axis in mesh_axes if axis not in used and sizes.get(axis, 1) > 1]
            while free and shape[dim] % int(np.prod([sizes[axis] for axis in free])):
                free.pop()
            used.update(free)
            chosen[dim] = tuple(free)
    return PartitionSpec(*(_entry(chosen.get(dim, ())) for dim in range(len(shape))))


def _entry(axes: tuple[str, ...]) -> Any:
    return None if not axes else axes[0] if len(axes) == 1 else axes


def constrain(x: Array, *names: str | None) -> Array:
    """Constrain an array to the layout of its logical axis names; without a mesh (jax.set_mesh) return it unchanged."""
    mesh = jax.sharding.get_abstract_mesh()
    spec = partition_spec(names, x.shape, mesh)  # first, so that a misspelt name fails on a laptop, not on the pod
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def split_map(function: Callable[..., Array], *names: tuple[str | None, ...]) -> Callable[..., Array]:
    """Run function(*arrays) on each device's shard (jax.shard_map), for kernels that XLA cannot partition.

    names: the logical names of each array; the result is laid out like the first. Without a mesh, just the function.
    """

    def run(*arrays: Array) -> Array:
        mesh = jax.sharding.get_abstract_mesh()
        specs = tuple(partition_spec(each, x.shape, mesh) for each, x in zip(names, arrays, strict=True))
        if mesh.empty or mesh.size == 1:
            return function(*arrays)
        return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*arrays)

    return run


def unbox(params: Params) -> Params:
    """Boxed flax params (nn.LogicallyPartitioned leaves) → plain nested dicts of arrays."""
    return jax.tree.map(lambda x: x.value if _is_box(x) else x, params, is_leaf=_is_box)


def _is_box(x: Any) -> bool:
    return isinstance(x, nn.LogicallyPartitioned)


def param_shardings(boxed: Params, mesh: Mesh) -> Params:
    """Boxed params, abstract or real → a tree of NamedSharding like unbox(boxed). Without a box: replicated."""

    def one(leaf: Any) -> NamedSharding:
        if not _is_box(leaf):
            return NamedSharding(mesh, PartitionSpec())
        return NamedSharding(mesh, partition_spec(leaf.names, leaf.value.shape, mesh))

    return jax.tree.map(one, boxed, is_leaf=_is_box)


def axis_divides(boxed: Params, axis: str, size: int) -> bool:
    """Whether `size` divides every dimension of boxed params that RULES splits over a mesh axis; False without any."""
    split = {name for name, axes in RULES if axis in axes}
    boxes = [leaf for leaf in jax.tree.leaves(boxed, is_leaf=_is_box) if _is_box(leaf)]
    sizes = [n for box in boxes for name, n in zip(box.names, box.value.shape, strict=True) if name in split]
    return bool(sizes) and all(n % size == 0 for n in sizes)


def shardings_like(tree: Any, params: Params, mesh: Mesh) -> Any:
    """Shardings of a tree with params-shaped subtrees (optimizer state, moving average); other leaves are replicated.

    params: the tree of NamedSharding from param_shardings. A leaf belongs to a parameter if the dictionary keys at the
    end of its path are that parameter's path.
    """
    known = {_keys(path): sharding for path, sharding in jax.tree_util.tree_leaves_with_path(params)}

    def one(path: Any, leaf: Any) -> NamedSharding:
        keys = _keys(path)
        for start in range(len(keys)):
            sharding = known.get(keys[start:])
            if sharding is not None and len(sharding.spec) <= leaf.ndim:
                return sharding
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(one, tree)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of a value that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def batch_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into: a global batch size must be a multiple of it."""
    return int(np.prod([mesh.shape[axis] for axis in dict(RULES)["batch"]]))


def is_split(name: str) -> bool:
    """Whether the current mesh splits a logical axis."""
    mesh = jax.sharding.get_abstract_mesh()
    return any(mesh.shape.get(axis, 1) > 1 for axis in dict(RULES)[name])


def batch_shapes(batch: Any, rows: int, mesh: Any) -> Any:
    """Abstract global arrays with `rows` rows, sharded as by put_batch, from a batch of any number of rows."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        shape = (rows, *x.shape[1:])
        spec = partition_spec(("batch", *[None] * (x.ndim - 1)), shape, mesh)
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(one, batch)


def put_batch(batch: Any, mesh: Mesh, process_count: int | None = None) -> Any:
    """A tree of this process's rows [B/processes, …] → global arrays [B, …] sharded along the batch axes."""
    count = jax.process_count() if process_count is None else process_count

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        shape = (x.shape[0] * count, *x.shape[1:])
        spec = partition_spec(("batch", *[None] * (x.ndim - 1)), shape, mesh)
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), x, shape)

    return jax.tree.map(one, batch)
