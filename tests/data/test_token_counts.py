"""Tokens are counted at the first start only, for each vocabulary and normaliser; the text itself stays in its file."""

import dataclasses
import os

import numpy as np
import pytest

from spectron.audio import wav
from spectron.config import BytesConfig, CharactersConfig, DataConfig, FeatureConfig, TaskConfig
from spectron.data.fitting import SMALL, Fitting
from spectron.data.shards import Utterance, shard_path, write_shard
from spectron.data.sources import make_source
from spectron.data.text_source import SMALL_BYTES

LIMITS = {"prompt_seconds": 0.5, "min_continuation_seconds": 0.5, "max_tokens": 40}
CAPITALS = CharactersConfig(tuple(" ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))


def make(root, kind, vocabulary=None, normaliser="keep", **limits):
    data = DataConfig(vocabulary=vocabulary or BytesConfig(), **{**LIMITS, **limits})
    return make_source(TaskConfig("t", kind, root=str(root), normaliser=normaliser), data, FeatureConfig())


@pytest.fixture
def counted(monkeypatch):
    """The numbers of texts whose tokens have been counted, one for each call."""
    calls = []
    count = Fitting.tokens
    monkeypatch.setattr(Fitting, "tokens", lambda self, texts: (calls.append(len(texts)), count(self, texts))[1])
    return calls


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# Shards.


def text(i):
    return "" if i % 100 == 0 else f"WORD {i}" + " MORE" * (i % 9)


def write(folder, number, changed=""):
    rows = range(number * 4000, (number + 1) * 4000)
    shard = (Utterance(f"u{i}", "s", "", b"", 16_000, 32_000, text(i) + changed) for i in rows)
    write_shard(shard_path(folder, number), shard)


@pytest.fixture
def shards(tmp_path, own_cache):
    pytest.importorskip("array_record", reason="the extra 'data' is not installed")
    assert SMALL < 12_000
    for number in range(3):
        write(tmp_path / "shards", number)
    return tmp_path / "shards"


def test_shards_are_tokenised_once_for_each_vocabulary(shards, counted):
    texts = {i: text(i) for i in range(12_000)}
    fits = [i for i, each in texts.items() if each and len(each) < 40]
    for _ in range(2):
        source = make(shards, "shards")
        assert len(source) == len(fits) < 12_000
        np.testing.assert_array_equal(source.tokens, [len(texts[i]) + 1 for i in fits])
        assert {reason: len(ids) for reason, ids in source.rejected.items()} == {
            "without text": 120,
            "more tokens than max_tokens": 12_000 - len(fits) - 120,
        }
        assert source.rejected["without text"][:2] == ["u0", "u100"] == list(source.rejected["without text"])[:2]
        assert source.rejected["without text"][119] == "u11900"
    assert sum(counted) == 12_000
    make(shards, "shards", CAPITALS)
    make(shards, "shards", normaliser="lower")
    assert sum(counted) == 36_000
    for arguments in ({}, {"vocabulary": CAPITALS}, {"normaliser": "lower"}):
        make(shards, "shards", **arguments)
    assert sum(counted) == 36_000


def test_a_shard_that_changes_is_counted_again(shards, counted):
    before = make(shards, "shards", max_tokens=60).tokens
    write(shards, 1, changed=" X")
    after = make(shards, "shards", max_tokens=60).tokens
    assert sum(counted) == 24_000
    assert after.sum() - before.sum() == 2 * 4000  # " X", or "X" and eos where there was no text


def test_where_the_folder_cannot_be_written_the_cache_keeps_the_counts(shards, counted, monkeypatch):
    from spectron.types import UserError
    from spectron.utils import stored_arrays

    written, put = [], stored_arrays.write_sealed

    def refuse(path, content):
        if path.parent == shards:
            raise UserError("read-only")
        written.append(path)
        put(path, content)

    monkeypatch.setattr(stored_arrays, "write_sealed", refuse)
    for _ in range(2):
        make(shards, "shards")
    assert sum(counted) == 12_000
    assert [path.parent.parent.name for path in written] == ["spectron"]


def test_without_long_texts_nothing_is_counted(shards, counted):
    source = make(shards, "shards", max_tokens=80)
    assert len(source) == 12_000 - 120
    assert not counted
    assert len(source.tokens) == len(source)
    assert sum(counted) == 12_000


def test_many_recordings_are_measured_and_counted_once(tmp_path, own_cache, counted, monkeypatch):
    wav.write(tmp_path / "a.wav", np.full(32_000, 100, np.int16), 16_000)
    read = []
    of_header = wav.seconds_of
    monkeypatch.setattr(wav, "seconds_of", lambda path: (read.append(path), of_header(path))[1])
    lines = "".join(f"a.wav\t{text(i) or 'X'}\n" for i in range(SMALL))
    (tmp_path / "manifest.tsv").write_text(f"audio\ttext\n{lines}")
    first = make(tmp_path, "manifest")
    again = make(tmp_path, "manifest")
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.lengths, again.lengths)
    assert len(read) == sum(counted) == SMALL
    wav.write(tmp_path / "a.wav", np.full(40_000, 100, np.int16), 16_000)
    assert make(tmp_path, "manifest").lengths[0] == 40_000


# Text.

LINES = ("short", "", "ein längerer Text, der über alle Grenzen geht: Straße und Fluß und noch viele Wörter mehr. " * 3)
LINES += ("w" * 95, "  two\u2003spaces\u00a0inside ", "naïve " * 13, "x" * 38, "y" * 39, "z" * 40)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz"])
def test_long_lines_are_cut_and_nothing_is_lost(tmp_path, end, name):
    import gzip

    content = ("\ufeff" + end.join(LINES) + end).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    source = make(tmp_path / name, "text")
    assert source.rejected == {"without text": [f"{name}:2"]}
    examples = [source[i] for i in range(len(source))]
    assert max(len(e.text.encode()) for e in examples) == 39  # with eos 40
    assert source.tokens.tolist() == [len(e.text.encode()) + 1 for e in examples]
    ids = [e.id for e in examples]
    assert len(set(ids)) == len(ids)
    assert [ids[0], ids[1], ids[-1]] == [f"{name}:1", f"{name}:3.1", f"{name}:9.2"]
    for number, line in enumerate(LINES, 1):
        pieces = [e.text for e in examples if e.id.split(":")[1].split(".")[0] == str(number)]
        whole = " ".join(line.split())
        if len(line) > 40 and " " in line:  # cut between words
            assert " ".join(pieces) == whole
            assert min(map(len, pieces[:-1])) > 20
        else:
            assert "".join(pieces) == whole


def test_what_cannot_be_cut_is_left_out_by_name(tmp_path):
    (tmp_path / "t.txt").write_text("a\n\N{PILE OF POO}\nb\n")
    source = make(tmp_path / "t.txt", "text", max_tokens=4)
    assert [source[i].text for i in range(2)] == ["a", "b"]
    assert source.rejected == {"more tokens than max_tokens": ["t.txt:2"]}


@pytest.mark.parametrize("normaliser", ["keep", "lower"])
def test_a_large_text_is_read_through_once_for_each_vocabulary(tmp_path, own_cache, counted, normaliser):
    path = tmp_path / "t.txt"
    lines = [f"Line {i} " + "and More " * (i % 40) for i in range(25_000)]
    path.write_text("\n".join(lines))
    assert path.stat().st_size > SMALL_BYTES
    first = make(path, "text", normaliser=normaliser, max_tokens=200)
    tokens, total = first.tokens, sum(counted)
    assert total > 25_000
    again = make(path, "text", normaliser=normaliser, max_tokens=200)
    np.testing.assert_array_equal(again.tokens, tokens)
    assert len(again) == len(first)
    assert sum(counted) == total
    for i in np.linspace(0, len(again) - 1, 50).astype(int).tolist():
        assert again[i][1:] == first[i][1:]
        assert again[i].id.startswith("t.txt:")
    words = lines[-1].lower().split() if normaliser == "lower" else lines[-1].split()
    assert again[len(again) - 1].text.split() == words[-len(again[len(again) - 1].text.split()) :]
    os.utime(path, (0, 0))
    make(path, "text", normaliser=normaliser, max_tokens=200)
    assert sum(counted) > total


def test_an_example_of_text_takes_a_few_bytes(tmp_path, own_cache):
    import tracemalloc

    path = tmp_path / "t.txt"
    path.write_text(f"{'and some words more ' * 9}\n" * 25_000)
    make(path, "text", max_tokens=200)
    tracemalloc.start()
    source = make(path, "text", max_tokens=200)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 25_000
    assert held < 20 * len(source) + 20_000  # and what does not grow


def test_a_text_that_is_cut_short_in_training_is_a_bad_record(tmp_path, own_cache):
    from spectron.data.example import BadExample

    path = tmp_path / "t.txt"
    path.write_text("one\ntwo ä\n")
    source = make(path, "text")
    os.truncate(path, 9)
    assert source[0].text == "one"
    with pytest.raises(BadExample, match=r"t\.txt:2.*cannot be read"):
        source[1]


def test_equal_vocabularies_have_equal_checksums():
    from spectron.data.vocabulary import make_vocabulary

    configs = [BytesConfig(), CAPITALS, dataclasses.replace(CAPITALS, characters=CAPITALS.characters[::-1])]
    sums = [make_vocabulary(config).checksum() for config in configs]
    assert len(set(sums)) == 3
    assert sums[1] == make_vocabulary(dataclasses.replace(CAPITALS)).checksum()
