"""Structs that cross folders.

Shapes use one alphabet: B batch, S samples, T frames, L text, P prefix, F mel bands, D width, H heads, V vocabulary.
Masks are True where an element is real.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from spectron.errors import UserError as UserError

Array = Any  # np.ndarray on the host, jax.Array on the device
Params = Any  # a nested dict of arrays


class Example(NamedTuple):
    """One utterance on the host, before batching.

    samples: int16 [S] at the features' sample rate (empty for text-only examples).
    prompt_samples: how many of them are the prompt.
    text: the transcript of the whole utterance.
    scored_words: how many first words of `text` carry cross-entropy (and eos only with all of them); -1 means all.
    word_ends: the sample at which each word of `text` ends; () if unknown.
    id, speaker: names, for logs and evaluation.
    token_ids, scored_tokens, token_ends: the text as tokens, if they are known (packed data): ids with eos, how many of
    them carry cross-entropy, and the sample at which each ends, except eos (() if unknown).
    """

    samples: np.ndarray
    prompt_samples: int
    text: str
    id: str
    speaker: str = ""
    scored_words: int = -1
    word_ends: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    scored_tokens: int = -1
    token_ends: tuple[int, ...] = ()


class Hypothesis(NamedTuple):
    """A transcript of one recording.

    text: words separated by single spaces. score: log-probability of the whole, language model included if one was
    fused. tokens: how many labels the text has, for length normalisation.
    """

    text: str
    score: float
    tokens: int


class Recogniser(Protocol):
    """A speech recogniser: a CTC model trained here, or a checkpoint of transformers."""

    name: str  # written with every label it makes

    def transcribe(self, recordings: list[np.ndarray]) -> list[Hypothesis]:
        """int16 [S] each, at 16 kHz → one hypothesis per recording, in order."""
        ...


def _register(cls: type) -> type:
    fields = [f.name for f in dataclasses.fields(cls)]
    return jax.tree_util.register_dataclass(cls, data_fields=fields, meta_fields=[])


@_register
@dataclasses.dataclass(frozen=True)
class Int8:
    """A weight with one byte per element: values int8, scale float32 of the same rank, of size 1 where shared."""

    values: Array
    scale: Array

    def dequantise(self) -> Array:
        """float32, of the shape of `values`."""
        return self.values.astype(np.float32) * self.scale


@jax.tree_util.register_pytree_with_keys_class
class Batch:
    """Model input: arrays by name, numpy on the host, sharded on the device. data/fields.py is their one table.

    The fields that every batch has (others may be registered): samples int16 [B, S], the whole utterance; num_samples
    and prompt_samples int32 [B]; text int32 [B, L], the transcript with eos, padded with 0; text_mask bool [B, L];
    text_loss_mask bool [B, L], the tokens that carry cross-entropy; token_ends int32 [B, L], the sample at which each
    token ends, 0 for eos and where the data do not say. S, or the number of real samples, may be 0 (text alone).
    """

    samples: Array
    num_samples: Array
    prompt_samples: Array
    text: Array
    text_mask: Array
    text_loss_mask: Array
    token_ends: Array

    def __init__(self, **fields: Array) -> None:
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Batch does not change; use replace({name}=...)")

    def replace(self, **fields: Array) -> Batch:
        """The same batch with other fields."""
        return Batch(**{**self.fields(), **fields})

    def fields(self) -> dict[str, Array]:
        """Every array by name."""
        return dict(self.__dict__)

    @property
    def size(self) -> int:
        """Rows in the batch."""
        return self.text.shape[0]

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Array]], tuple[str, ...]]:
        """For JAX."""
        names = tuple(self.__dict__)
        return [(jax.tree_util.GetAttrKey(name), self.__dict__[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], arrays: Any) -> Batch:
        """For JAX."""
        return cls(**dict(zip(names, arrays, strict=True)))


@_register
@dataclasses.dataclass(frozen=True)
class Sequence:
    """Values with the mask that marks the real ones: values [B, T, ...], mask bool [B, T]."""

    values: Array
    mask: Array

    def masked(self) -> Sequence:
        """The same sequence with exact zeros in the padding, even where it held NaN."""
        mask = self.mask.reshape(self.mask.shape + (1,) * (self.values.ndim - self.mask.ndim))
        return Sequence(jnp.where(mask, self.values, jnp.zeros((), self.values.dtype)), self.mask)

    @property
    def lengths(self) -> Array:
        """int32 [B]: real elements per row."""
        return self.mask.sum(axis=-1).astype(jnp.int32)


def length_mask(lengths: Array, size: int) -> Array:
    """lengths int [B] → bool [B, size], True for the first `lengths` positions."""
    return jnp.arange(size)[None, :] < jnp.asarray(lengths)[:, None]


@_register
@dataclasses.dataclass(frozen=True)
class Term:
    """One named loss as a sum and a weight, divided at the last moment: terms add across hosts and micro-batches."""

    sum: Array  # float32 []
    weight: Array  # float32 []

    def __add__(self, other: Term) -> Term:
        return Term(self.sum + other.sum, self.weight + other.weight)

    def mean(self) -> Array:
        """sum / weight, 0 if nothing was weighed."""
        return self.sum / jnp.maximum(self.weight, 1e-8)


@_register
@dataclasses.dataclass(frozen=True)
class Losses:
    """Named terms of one training step. `coefficients`: how much each counts in the total; others are metrics only."""

    terms: dict[str, Term]
    coefficients: dict[str, Array]

    def __add__(self, other: Losses) -> Losses:
        shared = set(self.terms) & set(other.terms)
        return Losses(
            {**self.terms, **other.terms, **{k: self.terms[k] + other.terms[k] for k in shared}},
            {**self.coefficients, **other.coefficients},
        )

    def total(self) -> Array:
        """float32 []: Σ coefficient · sum / weight."""
        return sum((c * self.terms[name].mean() for name, c in self.coefficients.items()), jnp.zeros((), jnp.float32))

    def means(self) -> dict[str, Array]:
        """Every term's mean, and the total under "loss"."""
        return {"loss": self.total(), **{name: term.mean() for name, term in self.terms.items()}}


@_register
@dataclasses.dataclass(frozen=True)
class Statistics:
    """Log-mel normalisation measured on the training data: mean and standard deviation, float32 [F] each.

    They are those of the spectrogram that the model predicts. encoder: those of the encoder's input, if it has other
    features; None if it has the same.
    """

    mean: Array
    std: Array
    encoder: Statistics | None = None

    @property
    def of_encoder(self) -> Statistics:
        """What the encoder's input is normalised by."""
        return self if self.encoder is None else self.encoder


@_register
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state of training. `params` are those that are trained, `frozen` the others, {} if all are trained.

    `ema` is the moving average of `params`, {} if none is kept. Randomness is fold_in(seed, step).
    """

    step: Array  # int32 []
    params: Params
    opt_state: Any
    ema: Params
    frozen: Params = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says to one prompt."""

    transcript: str  # y_p y_c as decoded
    frames: np.ndarray  # float32 [T, F], log-mel of the spoken continuation
    samples: np.ndarray  # int16 [S], the continuation as audio
    stopped_by: str  # "stop head" | "maximum length"
    ids: tuple[int, ...] = ()  # the transcript's tokens, without eos
