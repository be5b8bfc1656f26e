"""A TFDS feature: speech kept as FLAC and decoded by soundfile, so that neither ffmpeg nor tensorflow_io is needed."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from spectron.data.shards import encode_flac


class Flac(tfds.features.Tensor):
    """int16 [S] mono at `sample_rate` Hz. Takes FLAC bytes or samples; tfds.decode.SkipDecoding() gives the bytes."""

    def __init__(self, sample_rate: int = 16_000, doc: Any = None):
        self.sample_rate = sample_rate
        super().__init__(shape=(None,), dtype=np.int16, serialized_dtype=tf.string, serialized_shape=(), doc=doc)

    def encode_example(self, example_data: bytes | np.ndarray) -> bytes:
        """FLAC bytes as they are; int16 [S] as FLAC."""
        return example_data if isinstance(example_data, bytes) else encode_flac(example_data, self.sample_rate)

    def decode_example(self, tfexample_data: tf.Tensor) -> tf.Tensor:
        """FLAC bytes → int16 [S]."""
        samples = tf.numpy_function(self.decode_example_np, [tfexample_data], tf.int16, stateful=False)
        samples.set_shape((None,))
        return samples

    def decode_example_np(self, example_data: bytes) -> np.ndarray:
        """FLAC bytes → int16 [S], without TensorFlow: for tfds.data_source."""
        import soundfile

        return soundfile.read(io.BytesIO(example_data), dtype="int16")[0]

    def to_json_content(self) -> dict[str, int]:
        """What features.json keeps."""
        return {"sample_rate": self.sample_rate}

    @classmethod
    def from_json_content(cls, value: dict[str, int]) -> Flac:
        """The feature that features.json describes."""
        return cls(sample_rate=int(value["sample_rate"]))
