"""What the parts of the model cost, by formula. An objective adds them up to the cost of its step.

Model FLOPs (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): two per multiply-add of every matrix product that the
model's definition asks for, on the padded shapes of the batch; the backward pass has a product for the gradient of each
factor that needs one. Attention counts the pairs that may see each other once: a prefix all of its pairs, what follows
the causal half. Left out: rematerialisation (work done twice is not progress), norms, softmax, activations, log-mel,
the optimizer.

    MFU = model FLOPs per step / (step time x chips x peak FLOP/s of a chip)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from spectron.config import Experiment, LMConfig
from spectron.data.vocabulary import make_vocabulary

PARTS = ("encoder", "lm", "vocabulary", "frames")
# Starts of the paths of the parameters on which the LM's hidden states depend, besides those of what it reads.
LM_BODY = ("lm/embedding", "lm/position_embedding", "lm/layers", "lm/final_norm")


class Product(NamedTuple):
    """Matrix products of one kind.

    part: where reports count them: "encoder" (with the connector), "lm", "vocabulary" (the text head) or "frames"
    (pre-net, post-net, stop). forward: FLOPs of the forward pass. weights: the start of the paths of the parameters
    that are multiplied; "" for products of two activations, such as attention scores. inputs: the starts of the paths
    of the parameters that the activations depend on; () for inputs of the model and behind a stop-gradient.
    """

    part: str
    forward: float
    weights: str = ""
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of a step. trained: the starts of the paths of all parameters that are trained; None trains everything."""

    products: tuple[Product, ...] = ()
    trained: frozenset[str] | None = None

    def scaled(self, factor: float) -> Flops:
        """The same products, `factor` times."""
        products = (product._replace(forward=factor * product.forward) for product in self.products)
        return dataclasses.replace(self, products=tuple(products))

    def __add__(self, other: Flops) -> Flops:
        return dataclasses.replace(self, products=self.products + other.products)

    def with_trained(self, names: Iterable[str]) -> Flops:
        """The same step if only the parameters whose paths start with these names are trained; see `trained_names`."""
        return dataclasses.replace(self, trained=frozenset(names))

    def part(self, name: str) -> float:
        """Forward FLOPs of one part."""
        return sum(product.forward for product in self.products if product.part == name)

    @property
    def forward(self) -> float:
        """FLOPs of the forward pass."""
        return sum(product.forward for product in self.products)

    @property
    def backward(self) -> float:
        """FLOPs of the backward pass: a product for each factor whose gradient is needed."""
        total = 0.0
        for product in self.products:
            flows = any(self._trains(prefix) for prefix in product.inputs)
            own = self._trains(product.weights) if product.weights else flows
            total += product.forward * (flows + own)
        return total

    @property
    def step(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward

    def _trains(self, prefix: str) -> bool:
        """Whether any parameter whose path starts with `prefix` ("lm/layers", or a whole part, "lm") is trained."""
        if self.trained is None:
            return True
        return any(name.startswith(prefix) for name in self.trained)


def trained_names(params: Mapping[str, Any]) -> frozenset[str]:
    """The first two names of the paths of nested dicts of parameters: "lm/layers", "encoder/subsampling"."""
    names: set[str] = set()
    for part, tree in params.items():
        names |= {f"{part}/{name}" for name in tree} if isinstance(tree, Mapping) else {part}
    return frozenset(names)


def lm_products(config: LMConfig, prefix: int, length: int, inputs: tuple[str, ...]) -> Flops:
    """The decoder's layers on one row of `length` positions, the first `prefix` of them bidirectional.

    inputs: the starts of the paths of the parameters that the vectors it reads depend on, beside its own.
    """
    scores = scores_flops(config, prefix, length)
    products = lm_flops(config, prefix, length) - scores
    sources = LM_BODY + inputs
    return Flops((Product("lm", products, "lm/layers", sources), Product("lm", scores, "", sources)))


def head_product(config: LMConfig, vocabulary: int, positions: int, inputs: tuple[str, ...]) -> Product:
    """The vocabulary logits of that many positions. inputs: as in `lm_products`."""
    weights = "lm/embedding" if config.tie_embeddings else "lm/head"
    return Product("vocabulary", 2.0 * config.dim * vocabulary * positions, weights, LM_BODY + inputs)


def scores_flops(config: LMConfig, prefix: int, length: int) -> float:
    """Attention scores and weighted sums of `lm_flops`."""
    pairs = prefix * prefix + (length * (length + 1) - prefix * (prefix + 1)) / 2
    return 4.0 * config.num_layers * pairs * config.head_width * config.num_heads


def lm_flops(config: LMConfig, prefix: int, length: int) -> float:
    """The decoder's forward pass over one row of `length` positions, the first `prefix` of them bidirectional."""
    return 2.0 * config.num_layers * length * layer_weights(config) + scores_flops(config, prefix, length)


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
