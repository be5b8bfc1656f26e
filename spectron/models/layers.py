"""Layers shared by encoders and the decoder: dense, norms, feed-forward, and a stack of equal blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectron.models.decode_layout import TransposedKernel, fused_name

DENSE_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def dot_float32(x: Float[Array, "... I"], kernel: Float[Array | np.ndarray, "I O"]) -> Float[Array, "... O"]:
    """A product of arrays in the compute dtype that is accumulated and returned in float32.

    For the heads: rounded to bfloat16, many logits would be equal. Gradients are products in the compute dtype, like
    those of all other layers.
    """
    return jnp.dot(x, kernel) if x.dtype == jnp.float32 else _dot_float32(x, kernel)


@jax.custom_vjp
def _dot_float32(x: Array, kernel: Array) -> Array:
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32)


def _dot_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = saved
    gradient = gradient.astype(x.dtype)  # JAX's own rule would multiply float32 by bfloat16, slowly on every device
    rows = tuple(range(x.ndim - 1))
    return jnp.dot(gradient, kernel.T), jnp.tensordot(x, gradient, axes=(rows, rows))


_dot_float32.defvjp(lambda x, kernel: (_dot_float32(x, kernel), (x, kernel)), _dot_backward)


class Dense(nn.Module):
    """A matrix product [..., in] → [..., out]; the kernel is stored in float32 and used in `dtype`.

    float32_output: whether the product is accumulated and returned in float32, not in `dtype`.
    """

    features: int
    axes: tuple[str | None, str | None]
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable[..., Any] = DENSE_INIT
    float32_output: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "... I"]) -> Float[Array, "... O"]:
        stored = self.get_variable("params", "kernel")
        # Rows first: XLA's CPU backend multiplies plain matrices nearly twice as fast as batches of them.
        flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        if isinstance(stored, TransposedKernel):
            y = stored.dot_float32(flat) if self.float32_output else flat @ stored
        else:
            kernel = self.param(
                "kernel", nn.with_logical_partitioning(self.kernel_init, self.axes), (x.shape[-1], self.features)
            )
            y = (dot_float32 if self.float32_output else jnp.dot)(flat, kernel.astype(self.dtype))
        y = y.reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            bias = self.param(
                "bias", nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]), (self.features,)
            )
            y = y + bias.astype(y.dtype)
        return y


def fused_dense(module: nn.Module, x: Float[Array, "... I"], parts: dict[str, Dense]) -> list[Float[Array, "... O"]]:
    """Several products of the same x; one product if the decode layout has concatenated their kernels.

    module: the parent of `parts`, whose parameters hold the concatenated kernel.
    """
    fused = module.get_variable("params", fused_name(parts)) if len(parts) > 1 else None
    if fused is None:
        return [dense(x) for dense in parts.values()]
    dtype = next(iter(parts.values())).dtype
    y = x.reshape(-1, x.shape[-1]).astype(dtype) @ fused["kernel"]
    if "bias" in fused:
        y = y + fused["bias"].astype(dtype)
    ends = np.cumsum([dense.features for dense in parts.values()])[:-1]
    return jnp.split(y.reshape(*x.shape[:-1], -1), ends, axis=-1)


class RMSNorm(nn.Module):
    """x / rms(x) · (offset + scale), computed in float32 (arXiv 1910.07467).

    offset: 0, or 1 if the stored scale is relative to 1 (Gemma, arXiv 2403.08295).
    """

    epsilon: float = 1e-6
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        init = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", nn.with_logical_partitioning(init, ("embed",)), (x.shape[-1],))
        if self.offset:
            scale = scale + self.offset
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale).astype(x.dtype)


class LayerNorm(nn.Module):
    """(x − mean) / deviation · scale + bias over the last axis, computed in float32 (arXiv 1607.06450)."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        axes = ("embed",)
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, axes), (x.shape[-1],))
        bias = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, axes), (x.shape[-1],))
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return (wide * scale + bias).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,  # the approximation by tanh
    "silu": nn.silu,
    "relu": nn.relu,
}


class FeedForward(nn.Module):
    """Feed-forward layer: act(x W_up) W_down, or gated (arXiv 2002.05202): (act(x W_gate) · x W_up) W_down.

    activation: a key of ACTIVATIONS.
    """

    hidden: int
    gated: bool = True
    activation: str = "gelu_tanh"
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        activate = ACTIVATIONS[self.activation]
        names = ("gate", "up") if self.gated else ("up",)
        products = {
            name: Dense(self.hidden, ("embed", "mlp"), use_bias=self.use_bias, dtype=self.dtype, name=name)
            for name in names
        }
        outputs = fused_dense(self, x, products)
        wide = activate(outputs[0]) * outputs[1] if self.gated else activate(outputs[0])
        return Dense(x.shape[-1], ("mlp", "embed"), use_bias=self.use_bias, dtype=self.dtype, name="down")(wide)


def stack(block: type[nn.Module], num_layers: int, scan: bool, remat: str) -> Callable[..., Callable[..., Any]]:
    """Build a stack of blocks: stack(…)(**block arguments) is a function (x, cache, *shared) → (x, cache).

    block: a module called as block(x, layer_cache, *shared) → (x, layer_cache).
    scan: True compiles one block and gives parameters and caches a leading "layers" axis; False makes submodules
    layers_0, layers_1, … and a tuple of caches.
    remat: "none", "full" (keep each layer's input only) or "dots" (keep matrix products too).
    """
    policies = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
    if remat != "none":
        block = nn.remat(block, policy=policies[remat], prevent_cse=not scan)

    def build(**arguments: Any) -> Callable[..., Any]:
        if scan:
            return _ScannedStack(block, num_layers, arguments, name="layers")
        layers = [block(**arguments, name=f"layers_{i}") for i in range(num_layers)]

        def run(x: Array, cache: Any, *shared: Any) -> tuple[Array, Any]:
            caches = []
            for i, layer in enumerate(layers):
                x, layer_cache = layer(x, None if cache is None else cache[i], *shared)
                caches.append(layer_cache)
            return x, None if cache is None else tuple(caches)

        return run

    return build


class _ScannedStack(nn.Module):
    block: type[nn.Module]
    num_layers: int
    arguments: dict[str, Any]

    @nn.compact
    def __call__(self, x: Array, cache: Any, *shared: Any) -> tuple[Array, Any]:
        scanned = nn.scan(
            self.block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, *(nn.broadcast,) * len(shared)),
            length=self.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return scanned(**self.arguments, name="block")(x, cache, *shared)
