"""Connectors: vectors of the encoder → vectors that the LM reads, possibly fewer.

To add a connector: derive its config from ConnectorConfig with a kind of its own, derive the module from Connector, and
register it with @connectors.register(ItsConfig).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from spectron.config import LinearConnectorConfig, ModelConfig, Registry, StackMLPConnectorConfig
from spectron.models.layers import Dense
from spectron.types import Sequence


class Connector(nn.Module):
    """Vectors [B, T, encoder width] → [B, P, dim]. dim: the LM's width."""

    config: Any
    dim: int
    dtype: Any = jnp.float32

    def __call__(self, encoded: Sequence) -> Sequence:
        """Encoder vectors → prefix vectors; padding is zero on return."""
        raise NotImplementedError

    def output_length(self, length: Any) -> Any:
        """P for T encoder vectors: ints, integer arrays or symbolic sizes."""
        raise NotImplementedError

    def flops(self, width: int, length: int) -> float:
        """Forward model FLOPs of one row of `length` encoder vectors of that width."""
        raise NotImplementedError


connectors: Registry[type[Connector]] = Registry("connector")


@connectors.register(LinearConnectorConfig)
class LinearConnector(Connector):
    """One linear layer, a vector for every encoder vector."""

    config: LinearConnectorConfig

    def setup(self) -> None:
        self.dense = Dense(self.dim, (None, "embed"), use_bias=True, dtype=self.dtype)
        nn.share_scope(self, self.dense)  # the parameters are connector/kernel and connector/bias

    def __call__(self, encoded: Sequence) -> Sequence:
        """One layer on every vector."""
        return Sequence(self.dense(encoded.values), encoded.mask).masked()

    def output_length(self, length: Any) -> Any:
        """As many."""
        return length

    def flops(self, width: int, length: int) -> float:
        """One product."""
        return 2.0 * length * width * self.dim


@connectors.register(StackMLPConnectorConfig)
class StackMLPConnector(Connector):
    """Every `stack` encoder vectors side by side → Linear → ReLU → Linear (SLAM-ASR, arXiv 2402.08846).

    A last, incomplete group is filled with zeros (ours; the authors drop it). Parameters: hidden, out.
    """

    config: StackMLPConnectorConfig

    @nn.compact
    def __call__(self, encoded: Sequence) -> Sequence:
        """⌈T / stack⌉ vectors."""
        encoded, size = encoded.masked(), self.config.stack
        batch, length, width = encoded.values.shape
        groups = self.output_length(length)
        values = jnp.pad(encoded.values, ((0, 0), (0, groups * size - length), (0, 0)))
        x = values.reshape(batch, groups, size * width)
        x = Dense(self.config.hidden, (None, "mlp"), use_bias=True, dtype=self.dtype, name="hidden")(x)
        x = Dense(self.dim, ("mlp", "embed"), use_bias=True, dtype=self.dtype, name="out")(nn.relu(x))
        return Sequence(x, encoded.mask[:, ::size]).masked()

    def output_length(self, length: Any) -> Any:
        """⌈length / stack⌉."""
        return (length + self.config.stack - 1) // self.config.stack

    def flops(self, width: int, length: int) -> float:
        """Two products."""
        hidden = self.config.hidden
        return 2.0 * self.output_length(length) * hidden * (self.config.stack * width + self.dim)


def make_connector(model: ModelConfig) -> Connector:
    """The connector that the config chooses."""
    return connectors[model.connector](config=model.connector, dim=model.lm.dim, dtype=jnp.dtype(model.compute_dtype))
