"""Training losses (arXiv 2305.15255): each a sum and a weight, divided at the last moment."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from spectron.types import Sequence, Term


def by_chunks(terms: Callable[..., dict[str, Term]], size: int, *arrays: Array) -> dict[str, Term]:
    """terms(*arrays), computed `size` positions (axis 1 of every array) at a time and added; 0: all at once.

    What `terms` computes per position, such as [B, L, V] logits, is never in memory at once; the backward pass
    computes it again.
    Positions added to fill the last chunk are zeros, and False in masks.
    """
    length = arrays[0].shape[1]
    if not size or length <= size:
        return terms(*arrays)
    count = -(-length // size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, 0), (0, count * size - length), *((0, 0),) * (x.ndim - 2)))
        return padded.reshape(x.shape[0], count, size, *x.shape[2:]).swapaxes(0, 1)

    def add(total: dict[str, Term], chunk: tuple[Array, ...]) -> tuple[dict[str, Term], None]:
        return jax.tree.map(jnp.add, total, terms(*chunk)), None

    chunks = tuple(split(jnp.asarray(x)) for x in arrays)
    shapes = jax.eval_shape(terms, *(x[0] for x in chunks))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(jax.checkpoint(add), zeros, chunks)[0]


def classification(
    name: str, logits: Callable[[Array], Array], size: int, hidden: Array, targets: Array, mask: Array
) -> dict[str, Term]:
    """Cross-entropy `name` and the metric `name`_accuracy of hidden states [B, L, D], `size` positions at a time."""

    def compare(hidden: Array, targets: Array, mask: Array) -> dict[str, Term]:
        scores = logits(hidden)
        return {name: cross_entropy(scores, targets, mask), f"{name}_accuracy": accuracy(scores, targets, mask)}

    return by_chunks(compare, size, hidden, targets, mask)


def cross_entropy(logits: Float[Array, "B L V"], targets: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Term:
    """Σ −log p(target) over the masked tokens, in float32."""
    logits = logits.astype(jnp.float32)
    return _total(jax.nn.logsumexp(logits, axis=-1) - target_logits(logits, targets), mask)


def log_probability(
    logits: Callable[[Array], Array], hidden: Float[Array, "B L D"], text: Int[Array, "B L"], mask: Bool[Array, "B L"]
) -> Float[Array, " B"]:
    """Σ ln p over each text's masked tokens. logits: float [1, L, D] → [1, L, V]."""

    def row(each: tuple[Array, Array, Array]) -> Array:
        hidden, text, mask = each  # a row at a time: [B, L, V] of a large vocabulary would not fit
        scores = logits(hidden[None]).astype(jnp.float32)
        return jnp.where(mask, (target_logits(scores, text[None]) - jax.nn.logsumexp(scores, axis=-1))[0], 0.0).sum()

    return jax.lax.map(row, (hidden, jnp.asarray(text), jnp.asarray(mask)))


def target_logits(logits: Float[Array, "B L V"], targets: Int[Array, "B L"]) -> Float[Array, "B L"]:
    """Each position's logit of its target: a masked sum, because a gather would collect a vocabulary that is split
    over devices."""
    own = jnp.arange(logits.shape[-1]) == jnp.asarray(targets)[..., None]
    return jnp.sum(jnp.where(own, logits, 0.0), axis=-1)


def accuracy(logits: Float[Array, "B L V"], targets: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Term:
    """Share of masked tokens whose best label is the target: a metric, not a loss."""
    return _total((target_logits(logits, targets) >= logits.max(axis=-1)).astype(jnp.float32), mask)


def l12(difference: Float[Array, "B T F"], mask: Bool[Array, "B T"]) -> Term:
    """|d|₁ + |d|₂² over the valid elements; the mean is over elements (ours: the paper states no reduction)."""
    elements = jnp.abs(difference) + jnp.square(difference)
    return _total(elements, jnp.broadcast_to(mask[..., None], elements.shape))


def reconstruction(target: Sequence, predicted: Float[Array, "B T F"], time_deltas: int = 3) -> dict[str, Term]:
    """L_s, L_f and the K parts of L_t between spectrograms: "frames", "delta_freq", "delta_time_1" … "delta_time_K"."""
    real = target.mask[..., None]
    difference = jnp.where(real, target.values - predicted, 0.0).astype(jnp.float32)  # Δz − Δz' = Δ(z − z')
    terms = {
        "frames": l12(difference, target.mask),
        "delta_freq": l12(difference[..., :-1] - difference[..., 1:], target.mask),
    }
    for k in range(1, time_deltas + 1):
        both = target.mask[:, :-k] & target.mask[:, k:]
        terms[f"delta_time_{k}"] = l12(difference[:, :-k] - difference[:, k:], both)
    return terms


def stop(logits: Float[Array, "B T"], lengths: Int[Array, " B"], mask: Bool[Array, "B T"], positive: float) -> Term:
    """Binary cross-entropy of "the last frame or a later one"; such frames count `positive` times (ours)."""
    import optax

    ended = jnp.arange(logits.shape[1])[None, :] >= lengths[:, None] - 1
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), ended.astype(jnp.float32))
    weights = jnp.where(mask, jnp.where(ended, positive, 1.0), 0.0)
    return Term(jnp.sum(losses * weights), jnp.sum(weights))


def spoken_tokens(
    text: Int[Array, "B L"], ends: Int[Array, "B L"], middles: Int[Array, "B N"]
) -> tuple[Int[Array, "B N"], Bool[Array, "B 1"]]:
    """The token spoken in each frame step, and which rows have one (those with any of `ends`).

    middles: the sample in the middle of each step. A token is spoken until its end, including the gap before it.
    """
    finite = jnp.where(ends > 0, ends, jnp.iinfo(jnp.int32).max)
    spoken = jnp.sum(middles[:, :, None] >= finite[:, None, :], axis=-1)
    return jnp.take_along_axis(jnp.asarray(text), spoken, axis=1), (ends > 0).any(axis=1, keepdims=True)


def agreement(logits: Float[Array, "B L V"], teacher: Float[Array, "B L V"], mask: Bool[Array, "B L"]) -> Term:
    """Σ KL(teacher ‖ model) over the masked tokens; no gradient reaches the teacher."""
    import optax

    teacher_log_probs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32))
    divergence = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits.astype(jnp.float32)), teacher_log_probs
    )
    return _total(divergence, mask)


def ctc(
    logits: Float[Array, "B T V"], mask: Bool[Array, "B T"], labels: Int[Array, "B L"], label_mask: Bool[Array, "B L"]
) -> dict[str, Term]:
    """Connectionist temporal classification (Graves 2006), blank 0: "ctc", summed over rows, weight = their labels.

    A row whose labels need more frames than it has, one for each label and a blank between equal neighbours, has no
    alignment: it counts in neither sum nor weight. The metric "ctc_unalignable" is the share of such rows among those
    with labels.
    """
    import optax

    labels, label_mask = jnp.asarray(labels), jnp.asarray(label_mask)
    repeated = (labels[:, 1:] == labels[:, :-1]) & label_mask[:, 1:]
    alignable = label_mask.sum(axis=1) + repeated.sum(axis=1) <= mask.sum(axis=1)
    losses = optax.ctc_loss(
        logits.astype(jnp.float32), 1.0 - mask.astype(jnp.float32), labels, 1.0 - label_mask.astype(jnp.float32)
    )
    kept = alignable & mask.any(axis=1)
    return {
        "ctc": Term(
            jnp.sum(jnp.where(kept, losses, 0.0)), jnp.sum(label_mask & alignable[:, None]).astype(jnp.float32)
        ),
        "ctc_unalignable": _total((~alignable).astype(jnp.float32), label_mask.any(axis=1)),
    }


def _total(values: Array, mask: Array) -> Term:
    kept = jnp.where(mask, values, 0.0)
    return Term(jnp.sum(kept), jax.lax.convert_element_type(jnp.sum(mask), jnp.float32))
