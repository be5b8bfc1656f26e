"""A TFDS feature for speech stored as FLAC. soundfile decodes it, without ffmpeg and tensorflow_io."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from spectron.data.shards import encode_flac


class Flac(tfds.features.Tensor):
    """int16 [S], mono at `sample_rate` Hz, stored as FLAC.

    Accepts FLAC bytes or samples. With tfds.decode.SkipDecoding() the dataset yields the FLAC bytes.
    """

    def __init__(self, sample_rate: int = 16_000, doc: Any = None):
        self.sample_rate = sample_rate
        super().__init__(shape=(None,), dtype=np.int16, serialized_dtype=tf.string, serialized_shape=(), doc=doc)

    def encode_example(self, example_data: bytes | np.ndarray) -> bytes:
        """FLAC bytes unchanged, or int16 [S] → FLAC bytes."""
        return example_data if isinstance(example_data, bytes) else encode_flac(example_data, self.sample_rate)

    def decode_example(self, tfexample_data: tf.Tensor) -> tf.Tensor:
        """FLAC bytes → int16 [S]."""
        samples = tf.numpy_function(self.decode_example_np, [tfexample_data], tf.int16, stateful=False)
        samples.set_shape((None,))
        return samples

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """FLAC bytes → int16 [S] without TensorFlow, for tfds.data_source."""
        import soundfile

        return soundfile.read(io.BytesIO(example_data), dtype="int16")[0]

    def to_json_content(self) -> dict[str, int]:
        """The fields stored in features.json."""
        return {"sample_rate": self.sample_rate}

    @classmethod
    def from_json_content(cls, value: dict[str, int]) -> Flac:
        """Create the feature from features.json."""
        return cls(sample_rate=int(value["sample_rate"]))
