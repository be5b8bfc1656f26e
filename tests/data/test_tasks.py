# ruff: noqa: E402 - seqio may be missing
"""What goes through seqio equals what does not."""

import sys

import numpy as np
import pytest
from data_helpers import assert_same, first, with_data

seqio = pytest.importorskip("seqio", reason="the extra 'data' is not installed")

from spectron.audio import wav
from spectron.config import BytesConfig, DataConfig, Experiment, TaskConfig, WordsConfig, to_json
from spectron.data import batches
from spectron.data.seqio import tasks
from spectron.data.seqio.converter import SpectronConverter, feature_lengths, tf
from spectron.data.vocabulary import make_vocabulary
from spectron.types import UserError


def through_seqio(experiment):
    return with_data(experiment, reader="seqio")


@pytest.mark.parametrize("mixture", ["digits", "speech", "all", "texts"])
def test_the_same_batches_as_the_direct_reader(experiment, mixture):
    direct = first(batches.make_feed(experiment, mixture, 10), 6, start=3)
    ours = first(batches.make_feed(through_seqio(experiment), mixture, 10), 6, start=3)
    for a, b in zip(ours, direct, strict=True):
        assert_same(a, b)


def test_processes_share_a_batch(experiment):
    whole = first(batches.make_feed(experiment, "all", 10), 2)
    parts = [first(batches.make_feed(through_seqio(experiment), "all", 10, p, 2), 2) for p in range(2)]
    for step in range(2):
        np.testing.assert_array_equal(np.concatenate([p[step].text for p in parts]), whole[step].text)


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_recordings_with_bad_ones_among_them(tmp_path, kind):
    lines = []
    for i in range(12):
        bad = i % 4 == 0
        wav.write(tmp_path / f"{i}.wav", (np.arange(20_000 + 500 * i) % 100 * 90 * (not bad)).astype(np.int16), 16_000)
        lines.append(f"{i}.wav\tsay {'ä' * i}\n")
    (tmp_path / "list.tsv").write_text("audio\ttext\n" + "".join(lines))
    data = DataConfig(
        root=str(tmp_path / "list.tsv"), reader="direct", tasks=(TaskConfig("heard", "manifest"),),
        vocabulary={"words": WordsConfig(("say",)), "bytes": BytesConfig()}[kind],
        prompt_seconds=0.5, min_continuation_seconds=0.2, max_seconds=2.0,
    )  # fmt: skip
    experiment = Experiment("heard", data, ())
    direct = first(batches.make_feed(experiment, "heard", 4), 7)
    ours = first(batches.make_feed(through_seqio(experiment), "heard", 4), 7)
    for a, b in zip(ours, direct, strict=True):
        assert_same(a, b)


def test_plain_seqio_reads_our_tasks_and_mixtures(experiment):
    tasks.register(experiment)
    tasks.register(experiment)  # again is no error
    lengths = feature_lengths(experiment.data, experiment.features)
    dataset = seqio.get_dataset(
        "digits",
        task_feature_lengths=lengths,
        dataset_split="train",
        shuffle=False,
        feature_converter=SpectronConverter(),
    )
    rows = list(dataset.as_numpy_iterator())
    assert len(rows) == 50
    source = batches.source_of(experiment, "digits")
    vocabulary = make_vocabulary(experiment.data.vocabulary)
    expected = batches.to_batch([source[i] for i in range(50)], experiment.data, experiment.features, vocabulary)
    for name in ("samples", "num_samples", "prompt_samples", "text", "text_mask", "text_loss_mask"):
        stacked = np.stack([row[name] for row in rows])
        np.testing.assert_array_equal(stacked, getattr(expected, name))
        assert stacked.dtype == getattr(expected, name).dtype
    mixed = seqio.get_dataset(
        "speech",
        task_feature_lengths=lengths,
        dataset_split="train",
        shuffle=True,
        feature_converter=SpectronConverter(),
    )
    assert len(list(mixed.take(5))) == 5


def test_seqio_can_decode_our_tokens(experiment):
    feature = tasks.register(experiment)["digits"].output_features["text"]
    assert feature.vocabulary.vocab_size == 14
    assert feature.vocabulary.decode([6, 9, 12, 1, 0]) == "two five eight"
    assert feature.vocabulary.decode_tf(np.array([6, 9], np.int32)).numpy() == b"two five"
    assert feature.vocabulary.encode_tf(tf.constant("two five")).numpy().tolist() == [6, 9]


def test_preprocessors_that_drop_examples_are_caught(experiment, monkeypatch):
    kept = tasks.to_fields
    monkeypatch.setattr(
        tasks, "to_fields", lambda v: lambda ds: kept(v)(ds.enumerate().filter(lambda i, _: i != 3).map(lambda _, e: e))
    )
    with pytest.raises(UserError, match="digits drop or multiply examples"):
        first(batches.make_feed(through_seqio(experiment), "digits", 2), 4)


def test_a_mistake_comes_out_as_it_went_in(experiment):
    with pytest.raises(UserError, match="raise them"):
        first(batches.make_feed(through_seqio(with_data(experiment, max_seconds=0.5)), "digits", 4), 1)
    with pytest.raises(UserError, match=r"data\.max_tokens"):
        first(batches.make_feed(through_seqio(with_data(experiment, max_tokens=5)), "digits", 4), 1)
    with pytest.raises(UserError, match="'a b' is not one seqio takes"):
        tasks.register(with_data(experiment, tasks=(TaskConfig("a b", "counting"),), mixtures=()))


LEAVING = """
import sys
from spectron.config import from_json
from spectron.data import batches
running = batches.make_feed(from_json(sys.argv[1]), "all", 10).batches()
print(next(running).text.shape)
"""


@pytest.mark.slow
def test_a_process_may_end_while_its_feed_runs(experiment, run_python):
    assert "(10, 8)" in run_python(LEAVING, to_json(through_seqio(experiment))).stdout


def test_without_seqio_the_way_out_is_named(experiment, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    for name in ("tasks", "converter"):
        monkeypatch.delitem(sys.modules, f"spectron.data.seqio.{name}")
        monkeypatch.delattr(f"spectron.data.seqio.{name}")
    with pytest.raises(UserError, match=r"needs the package 'seqio'.*data\.reader=direct"):
        batches.make_feed(through_seqio(experiment), "digits", 4)
