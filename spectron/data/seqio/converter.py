"""The seqio feature converter: one example of a task → one row of a batch, padded to fixed sizes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import, or TensorFlow greets every user
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that are not ours
    import seqio
    import tensorflow as tf

from spectron.config import DataConfig, FeatureConfig
from spectron.data.buckets import longest_shape
from spectron.data.fields import FIELDS, ROW
from spectron.data.order import BatchShape

Spec = seqio.FeatureConverter.FeatureSpec


def feature_lengths(data: DataConfig, features: FeatureConfig, text_only: bool = False) -> dict[str, int]:
    """seqio's task_feature_lengths for the longest batch."""
    return lengths_in(longest_shape(data, features, rows=0), text_only)


def lengths_in(shape: BatchShape, text_only: bool = False) -> dict[str, int]:
    """seqio's task_feature_lengths for batches of a shape."""
    shape = shape._replace(samples=0) if text_only else shape
    return {name: field.size(shape) for name, field in FIELDS.items()}


class SpectronConverter(seqio.FeatureConverter):
    """Pads every field; never trims: what is too long fails.

    A task's features are the rows of the field table, all of rank 1 (seqio measures the length of every feature).
    """

    PACKING_FEATURE_DTYPES = None

    def __init__(self, passthrough_features: Mapping[str, seqio.FeatureConverter.FeatureSpec] | None = None):
        # Its own length checks cost two more passes over every example; padding below fails on what is too long.
        super().__init__(pack=False, apply_length_check=False, passthrough_features=passthrough_features)

    @property
    def TASK_FEATURES(self) -> dict[str, Any]:
        """What a task gives."""
        return {name: Spec(dtype=tf.as_dtype(field.dtype)) for name, field in FIELDS.items()}

    @property
    def MODEL_FEATURES(self) -> dict[str, Any]:
        """What a row of a batch holds."""
        return {
            name: Spec(dtype=tf.as_dtype(field.dtype), rank=0 if field.axis == ROW else 1)
            for name, field in FIELDS.items()
        }

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int | None]) -> tf.data.Dataset:
        def convert(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            row = {}
            for name, field in FIELDS.items():
                size, values = task_feature_lengths[name], example[name]
                padded = tf.ensure_shape(tf.pad(values, [[0, size - tf.size(values)]]), [size])
                row[name] = padded[0] if field.axis == ROW else padded
            return row | {name: example[name] for name in self._passthrough_features}

        return ds.map(convert)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int | None]) -> dict[str, int | None]:
        """The lengths of a row's fields (None for scalars)."""
        lengths = {name: None if f.axis == ROW else task_feature_lengths[name] for name, f in FIELDS.items()}
        return lengths | dict.fromkeys(self._passthrough_features)
