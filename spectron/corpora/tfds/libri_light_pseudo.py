"""TFDS dataset `libri_light_pseudo`, built from the shards of `spectron data write`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from spectron.corpora.tfds.flac import Flac
from spectron.data.shards import SUFFIX, finished_shards, read_shard

FEATURES = ("id", "speaker", "book", "recording", "start", "speech", "text", "labelled_by", "score", "tokens")


class LibriLightPseudo(tfds.core.GeneratorBasedBuilder):
    """Utterances of Libri-Light with pseudo-labels.

    manual_dir contains shards, or one folder of shards per split (train, dev, test).
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Cut, label and write Libri-Light with `spectron data`; manual_dir is the output folder of `spectron data "
        "write`, or a folder that contains one such folder per split."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = {name: tfds.features.Text() for name in FEATURES} | {
            "speech": Flac(16_000),
            "score": tfds.features.Scalar(np.float32),
            "tokens": tfds.features.Scalar(np.int32),
            "start": tfds.features.Scalar(np.float32),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("speech", "text"),
            homepage="https://arxiv.org/abs/2305.15255",
            description="Libri-Light, cut into utterances and pseudo-labelled by noisy student training.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and any(path.glob(f"*{SUFFIX}")))
        splits = {path.name: path for path in folders} or {"train": root}
        return {name: self._generate_examples(finished_shards(path)) for name, path in splits.items()}

    def _generate_examples(self, paths: list[Path]) -> Any:
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create([str(path) for path in paths]) | beam.Reshuffle() | beam.FlatMap(examples_of)


def examples_of(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, features) of every utterance of a shard."""
    for utterance in read_shard(path):
        fields = utterance._asdict()
        yield utterance.id, {name: fields["audio" if name == "speech" else name] for name in FEATURES}
