"""The TFDS builders on tiny corpora. They run on Beam."""

import numpy as np
import pytest
import soundfile
from librilight_tree import add_chapter, talk

from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard

pytest.importorskip("apache_beam", reason="pip install 'spectron-jax[beam]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of TFDS, Beam and what they import


def build(module, name, manual, out):
    """Builds a dataset; nothing of Beam's may reach the network."""
    import importlib

    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    importlib.import_module(module)
    builder = tfds.builder(name, data_dir=str(out))
    config = tfds.download.DownloadConfig(
        manual_dir=str(manual),
        beam_runner=FnApiRunner(),
        beam_options=PipelineOptions([]),
        try_download_gcs=False,
    )
    builder.download_and_prepare(download_config=config)
    return builder


def test_libri_light_pseudo(tmp_path):
    import tensorflow_datasets as tfds

    samples = [talk([(0, 1)], 1 + i, seed=i) for i in range(5)]
    for split, records in (("train", range(3)), ("dev", range(3, 5))):
        write_shard(
            shard_path(tmp_path / "shards" / split, 0),
            [
                Utterance(
                    f"u{i}", "s", "b", encode_flac(samples[i], 16_000), 16_000, len(samples[i]), f"é {i}", "x", -1.5, 3
                )
                for i in records
            ],
        )
    builder = build(
        "spectron.corpora.tfds.libri_light_pseudo", "libri_light_pseudo", tmp_path / "shards", tmp_path / "out"
    )
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 3, "dev": 2}
    found = {e["id"].decode(): e for e in tfds.as_numpy(builder.as_dataset(split="train"))}
    assert sorted(found) == ["u0", "u1", "u2"]
    for i in range(3):
        example = found[f"u{i}"]
        assert example["speech"].dtype == np.int16
        np.testing.assert_array_equal(example["speech"], samples[i])
        assert (example["text"].decode(), example["score"], example["tokens"]) == (f"é {i}", -1.5, 3)
    raw = builder.as_dataset(split="dev", decoders={"speech": tfds.decode.SkipDecoding()})
    assert {bytes(e["speech"][:4]) for e in tfds.as_numpy(raw)} == {b"fLaC"}


def test_librispeech_flac(tmp_path):
    import tensorflow_datasets as tfds

    folder = tmp_path / "LibriSpeech" / "dev-clean" / "12" / "34"
    lines = []
    samples = [talk([(0, 1)], 1 + i, seed=i) for i in range(4)]
    for i in range(4):
        add_chapter(folder, f"12-34-{i:04d}", samples[i])
        lines.append(f"12-34-{i:04d} WORDS  {i}")
    soundfile.write(folder / "12-34-0001.wav", samples[1], 16_000)
    (folder / "12-34-0001.flac").unlink()
    (folder / "12-34-0003.flac").write_bytes(b"broken")
    (folder / "12-34.trans.txt").write_text("\n".join([*lines, "12-34-0009 NOT THERE"]))
    builder = build("spectron.corpora.tfds.librispeech_flac", "librispeech_flac", tmp_path, tmp_path / "out")
    found = {e["id"].decode(): e for e in tfds.as_numpy(builder.as_dataset(split="dev_clean"))}
    assert sorted(found) == [f"12-34-{i:04d}" for i in range(3)]
    for i in range(3):
        example = found[f"12-34-{i:04d}"]
        np.testing.assert_array_equal(example["speech"], samples[i])
        assert [example[k].decode() for k in ("speaker", "chapter", "text")] == ["12", "34", f"WORDS {i}"]
