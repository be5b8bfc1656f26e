"""What the parts of the model cost, by formula. An objective adds them up to the cost of its step.

Model FLOPs (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): two per multiply-add of every matrix product that the
model's definition asks for, on the padded shapes of the batch; the backward pass costs twice the forward. Attention
counts the pairs that may see each other once: a prefix all of its pairs, what follows the causal half. Left out:
rematerialisation (work done twice is not progress), norms, softmax, activations, log-mel, the optimizer.

    MFU = model FLOPs per step / (step time x chips x peak FLOP/s of a chip)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from spectron.config import Experiment, LMConfig
from spectron.data.vocabulary import make_vocabulary


@dataclasses.dataclass(frozen=True)
class Flops:
    """Forward FLOPs by part: encoder (with the connector), LM, vocabulary (the text head), frames (pre-net, post-net,
    stop); `detached` is how many of them all have no backward pass."""

    encoder: float = 0.0
    lm: float = 0.0
    vocabulary: float = 0.0
    frames: float = 0.0
    detached: float = 0.0

    def scaled(self, factor: float) -> Flops:
        """The same parts, `factor` times."""
        return Flops(*(factor * part for part in dataclasses.astuple(self)))

    def __add__(self, other: Flops) -> Flops:
        return Flops(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def forward(self) -> float:
        """All parts, forward."""
        return self.encoder + self.lm + self.vocabulary + self.frames

    def with_frozen(self, parts: Collection[str]) -> Flops:
        """The same step with some top-level parts of the parameters frozen.

        The gradient does not pass through a frozen encoder at all. It passes through a frozen LM to what comes before
        it, without the gradient of its weights, which is half of its backward pass.
        """
        detached = self.detached
        if "lm" in parts:
            detached += (self.lm + self.vocabulary - self.detached) / 2
        if "encoder" in parts:
            detached += self.encoder
        return dataclasses.replace(self, detached=detached)

    @property
    def step(self) -> float:
        """Forward and backward."""
        return 3 * self.forward - 2 * self.detached


def lm_flops(config: LMConfig, prefix: int, length: int) -> float:
    """The decoder's forward pass over one row of `length` positions, the first `prefix` of them bidirectional."""
    pairs = prefix * prefix + (length * (length + 1) - prefix * (prefix + 1)) / 2
    return 2.0 * config.num_layers * (length * layer_weights(config) + 2 * pairs * config.head_width * config.num_heads)


def layer_weights(config: LMConfig) -> int:
    """Elements of the matrices of one decoder layer."""
    heads = 2 * config.num_heads + 2 * config.num_kv_heads  # query and out, key and value
    return config.dim * (heads * config.head_width + (3 if config.gated else 2) * config.ff_dim)


def position_bytes(experiment: Experiment, seen: int, rows: int = 1) -> dict[str, float]:
    """Bytes that a step of decoding must move in each phase, "text" and "frames": every weight that it multiplies by,
    once, and of each row the keys and values of the `seen` positions before it and its own. In compute_dtype; norms,
    biases, activations and the embedding that is looked up are left out."""
    model, dim = experiment.model, experiment.model.lm.dim
    cache = rows * (seen + 1) * 2 * model.lm.head_width * model.lm.num_kv_heads
    step = model.frames.frames_per_step * experiment.features.num_mels
    heads = {
        "text": dim * make_vocabulary(experiment.data.vocabulary).size,
        "frames": model.frames.bottleneck * (step + dim) + dim * (dim + step + model.frames.frames_per_step),
    }
    layers = model.lm.num_layers * (layer_weights(model.lm) + cache)
    return {phase: float(np.dtype(model.compute_dtype).itemsize * (layers + head)) for phase, head in heads.items()}
