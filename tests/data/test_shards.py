import math
import os
import pickle
import threading

import numpy as np
import pytest
from librilight_tree import contents

from spectron.corpora.labels import Label, clean_text, labels_path, read_labels, write_labels
from spectron.data.shards import (
    Index,
    Shards,
    Utterance,
    encode_flac,
    index_path,
    is_finished,
    read_shard,
    shard_path,
    write_shard,
)
from spectron.types import UserError


def utterance(i, **changes):
    samples = np.random.default_rng(i).integers(-9000, 9000, 500 + 7 * i).astype(np.int16)
    made = Utterance(
        f"u/{i}",
        f"s{i % 3}",
        "bük",
        encode_flac(samples, 16_000),
        16_000,
        len(samples),
        f"text {i}",
        "fake",
        -i / 3,
        i,
        0.5,
    )
    return made._replace(**changes)


@pytest.fixture
def folder(tmp_path):
    for number, records in enumerate((range(5), range(5, 5), range(5, 25))):
        assert write_shard(shard_path(tmp_path, number), map(utterance, records), {"too short": ["a", "é"]}) == len(
            records
        )
    return tmp_path


def same(a, b):
    return all(x == y or (x != x and y != y) for x, y in zip(a, b, strict=True))


def test_what_was_written_is_read_in_any_order(folder):
    shards = Shards(folder)
    assert len(shards) == 25
    np.testing.assert_array_equal(shards.lengths, [500 + 7 * i for i in range(25)])
    assert shards.lengths.dtype == np.int64
    for i in (24, 0, 5, 4, 17):
        assert same(shards[i], utterance(i))
    assert [u.id for u in read_shard(shards.paths[2])] == [f"u/{i}" for i in range(5, 25)]
    np.testing.assert_array_equal(shards[3].samples(), np.random.default_rng(3).integers(-9000, 9000, 521))
    for i in (25, -1):
        with pytest.raises(IndexError):
            shards[i]


def test_the_index_has_everything_but_the_audio(folder):
    index = Index(shard_path(folder, 2))
    for name in ("id", "speaker", "book", "recording", "text", "labelled_by"):
        assert index.strings(name) == [getattr(utterance(i), name) for i in range(5, 25)]
    for name in ("num_samples", "sample_rate", "tokens", "score", "start"):
        np.testing.assert_array_equal(index.numbers(name), [getattr(utterance(i), name) for i in range(5, 25)])
    assert index.string_sizes("book").tolist() == [4] * 20
    assert index.rejected() == {"too short": ["a", "é"]}
    assert math.isnan(Utterance("a", "", "", b"", 1, 1).score)


def test_the_same_utterances_give_the_same_bytes(folder, tmp_path):
    before = contents(folder)
    for number, records in enumerate((range(5), range(5, 5), range(5, 25))):
        write_shard(shard_path(folder, number), map(utterance, records), {"too short": ["a", "é"]})
    assert contents(folder) == before
    assert set(before) == {f"shard-0000{i}.{end}" for i in range(3) for end in ("array_record", "index.npz")}


def test_threads_and_processes_may_share_it(folder):
    shards = pickle.loads(pickle.dumps(Shards(folder)))
    wrong = []

    def work(seed):
        order = np.random.default_rng(seed).integers(0, 25, 200).tolist()
        wrong.extend(i for i in order if not same(shards[i], utterance(i)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def dying():
        yield utterance(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(shard_path(tmp_path, 0), dying())
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_shard(tmp_path / "file" / "shard-00000.array_record", [utterance(1)])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("spectron.data.shards.part_of", lambda path: type(path)("/dev/full"))
    monkeypatch.setattr("pathlib.Path.unlink", lambda *a, **k: None)
    with pytest.raises(UserError, match="No space left"):
        write_shard(shard_path(tmp_path, 0), map(utterance, range(25)))


def test_an_unfinished_folder_is_refused(folder):
    index_path(shard_path(folder, 1)).unlink()
    assert not is_finished(shard_path(folder, 1))
    with pytest.raises(UserError, match=r"2 of 3 shards.*again"):
        Shards(folder)
    (folder / "corpus.json").write_text('{"shards": 7}')
    with pytest.raises(UserError, match=r"2 of 7 shards"):
        Shards(folder)
    with pytest.raises(UserError, match="no shards"):
        Shards(folder / "nowhere")


def test_damage_is_named(folder):
    path = shard_path(folder, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"shard-00002.*damaged"):
        Shards(folder)[20]
    path.write_bytes(whole)
    broken = utterance(1, audio=utterance(1).audio[:300])
    with pytest.raises(UserError, match="u/1"):
        broken.samples()
    with pytest.raises(UserError, match=r"507 samples.*says 9"):
        utterance(1, num_samples=9).samples()
    index = index_path(path).read_bytes()
    for damaged in (b"PK", b"", index[:200], index[:-30]):
        index_path(path).write_bytes(damaged)
        with pytest.raises(UserError, match=r"index\.npz"):
            Shards(folder)


def test_labels_come_back(tmp_path):
    labels = [Label("a/ü", "words\x1f here\u2028", -3.25, 4, 1.5, "fake"), Label("b", "", math.nan, 0, 2.0)]
    path = labels_path(tmp_path, 3)
    assert path.name == "shard-00003.jsonl"
    write_labels(path, labels)
    found = read_labels(path)
    assert found[0] == labels[0]
    assert same(found[1], labels[1])
    path.write_text(path.read_text() + '{"id": "c", "te')
    with pytest.raises(UserError, match="line 3"):
        read_labels(path)
    with pytest.raises(UserError, match=r"none\.jsonl.* cannot be read"):
        read_labels(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a\tb\nc  d ", "a b c d"),
        ("nul\0 bell\x07 esc\x1b[0m", "nul bell esc[0m"),
        ("line\u2028separator nbsp\u00a0here", "line separator nbsp here"),
        ("e\u0301", "é"),
        ("lone \ud800 surrogate \uffff", "lone surrogate"),
        ("naïve – “quotes” 日本", "naïve – “quotes” 日本"),
    ],
)
def test_texts_are_cleaned(text, clean):
    assert clean_text(text) == clean
