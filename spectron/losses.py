"""The training losses (PAPER §1): named sums with weights, divided at the last moment."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from spectron.types import Sequence, Term


def cross_entropy(logits: Float[Array, "B L V"], targets: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Term:
    """Σ −log p(target) over the masked tokens, in float32."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return _total(losses, mask)


def accuracy(logits: Float[Array, "B L V"], targets: Int[Array, "B L"], mask: Bool[Array, "B L"]) -> Term:
    """Share of masked tokens whose best label is the target: a metric, not a loss."""
    return _total((logits.argmax(axis=-1) == targets).astype(jnp.float32), mask)


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
    """Binary cross-entropy of "this frame is the last or lies behind it"; such frames count `positive` times (ours)."""
    ended = jnp.arange(logits.shape[1])[None, :] >= lengths[:, None] - 1
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), ended.astype(jnp.float32))
    weights = jnp.where(mask, jnp.where(ended, positive, 1.0), 0.0)
    return Term(jnp.sum(losses * weights), jnp.sum(weights))


def alignment(
    logits: Float[Array, "B N V"],
    text: Int[Array, "B L"],
    ends: Int[Array, "B L"],
    middles: Int[Array, "B N"],
    mask: Array,
) -> dict[str, Term]:
    """Cross-entropy of "this step says this token", and its accuracy, over the steps of rows that know their `ends`.

    middles: the sample in the middle of each step. A token is said until its end, with the gap before it; eos follows.
    """
    finite = jnp.where(ends > 0, ends, jnp.iinfo(jnp.int32).max)
    said = jnp.sum(middles[:, :, None] >= finite[:, None, :], axis=-1)
    labels = jnp.take_along_axis(jnp.asarray(text), said, axis=1)
    known = mask & (ends > 0).any(axis=1, keepdims=True)
    return {
        "alignment": cross_entropy(logits, labels, known),
        "alignment_accuracy": accuracy(logits, labels, known),
    }


def agreement(logits: Float[Array, "B L V"], teacher: Float[Array, "B L V"], mask: Bool[Array, "B L"]) -> Term:
    """Σ KL(teacher ‖ model) over the masked tokens; the teacher learns nothing from it."""
    believed = jax.nn.log_softmax(jax.lax.stop_gradient(teacher).astype(jnp.float32))
    divergence = optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits.astype(jnp.float32)), believed)
    return _total(divergence, mask)


def ctc(logits: Float[Array, "B T V"], mask: Bool[Array, "B T"], labels: Int[Array, "B L"], label_mask: Array) -> Term:
    """Connectionist temporal classification (Graves 2006), blank 0; sum over rows, weight = number of labels."""
    losses = optax.ctc_loss(
        logits.astype(jnp.float32), 1.0 - mask.astype(jnp.float32), labels, 1.0 - label_mask.astype(jnp.float32)
    )
    return Term(jnp.sum(jnp.where(mask.any(axis=1), losses, 0.0)), jnp.sum(label_mask).astype(jnp.float32))


def _total(values: Array, mask: Array) -> Term:
    kept = jnp.where(mask, values, 0.0)
    return Term(jnp.sum(kept), jax.lax.convert_element_type(jnp.sum(mask), jnp.float32))
