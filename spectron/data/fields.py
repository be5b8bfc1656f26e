"""The fields of a batch, one row each, and the way from examples to a batch.

Batches, packed data, seqio's tasks and converter and the validation set all derive from FIELDS: a new field of the
model's input is one `register_field`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spectron.config import DataConfig, FeatureConfig
from spectron.data.buckets import longest_shape
from spectron.data.order import BatchShape
from spectron.data.vocabulary import Vocabulary, encode_ends, encode_target
from spectron.types import Batch, Example, UserError

ROW, SAMPLES, TOKENS = "row", "samples", "tokens"  # what a field has one value for


class EncodedText(NamedTuple):
    """An example's text as tokens.

    ids: with eos. scored: the number of leading tokens that carry cross-entropy. ends: the sample at which each token
    ends, except eos; () if the example has no word ends.
    """

    ids: Sequence[int]
    scored: int
    ends: Sequence[int]


class Field(NamedTuple):
    """One array of a batch. axis: ROW (shape [B]), SAMPLES ([B, S]) or TOKENS ([B, L]); shorter rows are padded with 0.

    from_example: one number for ROW, else a sequence no longer than the example's samples or tokens.
    """

    name: str
    dtype: Any
    axis: str
    from_example: Callable[[Example, EncodedText], Any]

    def size(self, shape: BatchShape) -> int:
        """Entries of a row in a batch of this shape; 1 for ROW."""
        return {ROW: 1, SAMPLES: shape.samples, TOKENS: shape.tokens}[self.axis]

    def stack(self, rows: Sequence[Any], shape: BatchShape) -> np.ndarray:
        """The rows as one padded array."""
        if self.axis == ROW:
            return np.asarray(rows, self.dtype).reshape(len(rows))
        stacked = np.empty((len(rows), self.size(shape)), self.dtype)  # most of it is written once, below
        for out, row in zip(stacked, rows, strict=True):
            out[: len(row)] = row
            out[len(row) :] = 0
        return stacked


FIELDS: dict[str, Field] = {
    field.name: field
    for field in (
        Field("samples", np.int16, SAMPLES, lambda example, text: example.samples),
        Field("num_samples", np.int32, ROW, lambda example, text: len(example.samples)),
        Field("prompt_samples", np.int32, ROW, lambda example, text: example.prompt_samples),
        Field("text", np.int32, TOKENS, lambda example, text: text.ids),
        Field("text_mask", np.bool_, TOKENS, lambda example, text: np.ones(len(text.ids), bool)),
        Field("text_loss_mask", np.bool_, TOKENS, lambda example, text: np.ones(text.scored, bool)),
        Field("token_ends", np.int32, TOKENS, lambda example, text: text.ends),
    )
}


def register_field(field: Field) -> None:
    """Add a field to every batch made from now on. Raises ValueError if the name is taken."""
    if field.name in FIELDS:
        raise ValueError(f"a batch has a field {field.name!r} already")
    FIELDS[field.name] = field


def encode_text(example: Example, vocabulary: Vocabulary) -> EncodedText:
    """The example's text as tokens: its own if it has them."""
    if example.token_ids:
        return EncodedText(example.token_ids, example.scored_tokens, example.token_ends)
    ids, scored = encode_target(vocabulary, example.text, example.scored_words)
    ends = encode_ends(vocabulary, example.text, example.word_ends) if example.word_ends else ()
    return EncodedText(ids, scored, ends)


def to_batch(
    examples: Sequence[Example],
    data: DataConfig,
    features: FeatureConfig,
    vocabulary: Vocabulary,
    text_only: bool = False,
    shape: BatchShape | None = None,
) -> Batch:
    """Examples → Batch of numpy arrays, S and L those of `shape` or of the longest batch; S is 0 if text_only.

    Raises UserError naming the example that does not fit.
    """
    shape = shape or longest_shape(data, features, len(examples))
    if text_only:
        shape = shape._replace(samples=0)
    texts = [encode_text(example, vocabulary) for example in examples]
    for example, text in zip(examples, texts, strict=True):
        if len(text.ids) > shape.tokens:
            raise UserError(
                f"Example {example.id!r} has {len(text.ids)} tokens; raise data.max_tokens ({shape.tokens})."
            )
        if len(example.samples) > shape.samples:
            raise UserError(f"Example {example.id!r} has {len(example.samples)} samples; raise data.max_seconds.")
    pairs = list(zip(examples, texts, strict=True))
    return Batch(
        **{name: field.stack([field.from_example(*pair) for pair in pairs], shape) for name, field in FIELDS.items()}
    )
