"""TFDS dataset `librispeech_flac`: LibriSpeech read from its original folders by soundfile."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from spectron.audio import wav
from spectron.audio.finding import find_files
from spectron.corpora.tfds.flac import Flac
from spectron.data.recordings import TRANSCRIPTS, chapter_records
from spectron.data.shards import encode_flac
from spectron.types import UserError

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000


class LibrispeechFlac(tfds.core.GeneratorBasedBuilder):
    """LibriSpeech (CC BY 4.0): SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac (.opus, …) and its transcripts."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder that contains train-clean-100/, dev-clean/, …"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "id": tfds.features.Text(),
            "speaker": tfds.features.Text(),
            "chapter": tfds.features.Text(),
            "speech": Flac(SAMPLE_RATE),
            "text": tfds.features.Text(),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("speech", "text"),
            homepage="https://www.openslr.org/12",
            description="LibriSpeech as FLAC; splits are its folders, with _ for -.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        root = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
        splits = {}
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            files = [path for path in find_files(folder).others if path.name.lower().endswith(TRANSCRIPTS)]
            if files:
                splits[folder.name.replace("-", "_")] = sorted(files)
        if not splits:
            raise UserError(
                f"{str(root)!r} does not contain LibriSpeech; give the folder that contains train-clean-100/, …"
            )
        return {name: self._generate_examples(files) for name, files in splits.items()}

    def _generate_examples(self, transcripts: list[Path]) -> Any:
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create([str(path) for path in transcripts]) | beam.Reshuffle() | beam.FlatMap(examples_of)


def examples_of(transcripts: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(id, features) of every utterance of a chapter; those that cannot be read are logged and left out."""
    rejected: dict[str, list[str]] = {}
    for record in chapter_records(Path(transcripts), rejected):
        try:
            speech = flac_of(Path(record.audio))
        except UserError as error:
            log.warning("LibriSpeech: left out: %s", error)
            continue
        features = {
            "id": record.id,
            "speaker": record.speaker,
            "chapter": record.id.partition("-")[2].partition("-")[0],
            "speech": speech,
            "text": record.text,
        }
        yield record.id, features
    for reason, names in rejected.items():
        log.warning("LibriSpeech %s: left out %d %s, the first: %s", transcripts, len(names), reason, names[0])


def flac_of(path: Path) -> bytes:
    """A recording as 16 kHz mono FLAC; the file's own bytes if it is that already. Raises UserError if unreadable."""
    import soundfile

    samples = wav.read(path, SAMPLE_RATE)  # FLAC is decoded too, to leave damaged files out
    content = path.read_bytes()
    if path.suffix.lower() == ".flac":
        info = soundfile.info(io.BytesIO(content))
        if (info.samplerate, info.channels) == (SAMPLE_RATE, 1):
            return content
    return encode_flac(samples, SAMPLE_RATE)
