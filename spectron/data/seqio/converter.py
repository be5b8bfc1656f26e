"""The seqio feature converter: one example of a task → the fields of one row of types.Batch, at fixed sizes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import ClassVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, or TensorFlow greets every user
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that are not ours
    import seqio
    import tensorflow as tf

from spectron.config import DataConfig, FeatureConfig
from spectron.data.batches import samples_per_row
from spectron.data.order import Room

Spec = seqio.FeatureConverter.FeatureSpec


def feature_lengths(data: DataConfig, features: FeatureConfig, text_only: bool = False) -> dict[str, int | None]:
    """seqio's task_feature_lengths for our tasks (scalars have none)."""
    return lengths_in(Room(0, samples_per_row(data, features), data.max_tokens), text_only)


def lengths_in(room: Room, text_only: bool = False) -> dict[str, int | None]:
    """The same for the batches of one bucket."""
    size = 0 if text_only else room.samples
    return {"samples": size, "text": room.tokens, "prompt_samples": None, "scored": None, "token_ends": room.tokens}


class SpectronConverter(seqio.FeatureConverter):
    """Pads samples and text and derives the masks; never trims: what is too long fails."""

    TASK_FEATURES: ClassVar = {
        "samples": Spec(dtype=tf.int16),
        "text": Spec(dtype=tf.int32),  # with eos
        "prompt_samples": Spec(dtype=tf.int32, rank=0),
        "scored": Spec(dtype=tf.int32, rank=0),  # how many first tokens carry cross-entropy
        "token_ends": Spec(dtype=tf.int32),  # one per token without eos, or none
    }
    MODEL_FEATURES: ClassVar = {
        "samples": Spec(dtype=tf.int16),
        "num_samples": Spec(dtype=tf.int32, rank=0),
        "prompt_samples": Spec(dtype=tf.int32, rank=0),
        "text": Spec(dtype=tf.int32),
        "text_mask": Spec(dtype=tf.bool),
        "text_loss_mask": Spec(dtype=tf.bool),
        "token_ends": Spec(dtype=tf.int32),
    }
    PACKING_FEATURE_DTYPES = None

    def __init__(self, passthrough_features: Mapping[str, seqio.FeatureConverter.FeatureSpec] | None = None):
        # Its own length checks cost two more passes over every example; padding below fails on what is too long.
        super().__init__(pack=False, apply_length_check=False, passthrough_features=passthrough_features)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int | None]) -> tf.data.Dataset:
        size, length = task_feature_lengths["samples"], task_feature_lengths["text"]

        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            samples, text, ends, positions = (
                example["samples"],
                example["text"],
                example["token_ends"],
                tf.range(length),
            )
            row = {
                "samples": tf.ensure_shape(tf.pad(samples, [[0, size - tf.size(samples)]]), [size]),
                "num_samples": tf.size(samples),
                "prompt_samples": example["prompt_samples"],
                "text": tf.ensure_shape(tf.pad(text, [[0, length - tf.size(text)]]), [length]),
                "text_mask": positions < tf.size(text),
                "text_loss_mask": positions < example["scored"],
                "token_ends": tf.ensure_shape(tf.pad(ends, [[0, length - tf.size(ends)]]), [length]),
            }
            return row | {name: example[name] for name in self._passthrough_features}

        return ds.map(convert)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int | None]) -> dict[str, int | None]:
        """The lengths of a row's fields (None for scalars)."""
        size, length = task_feature_lengths["samples"], task_feature_lengths["text"]
        lengths = {
            "samples": size,
            "text": length,
            "text_mask": length,
            "text_loss_mask": length,
            "token_ends": length,
        }
        return {name: lengths.get(name) for name in (*self.MODEL_FEATURES, *self._passthrough_features)}
