import json

import numpy as np
import pytest
from data_helpers import assert_same, first, with_data

from spectron.config import DataConfig, Experiment, SentencePieceConfig, TaskConfig
from spectron.data import packed, packing
from spectron.data.batches import make_feed
from spectron.data.vocabulary import make_pieces, make_vocabulary
from spectron.types import UserError


@pytest.fixture
def packs(experiment, tmp_path):
    for task in ("digits", "random", "texts"):
        report = packing.pack(experiment, task, tmp_path / "packs")
        assert report.examples == {"digits": 50, "random": 70, "texts": 30}[task]
    return tmp_path / "packs"


@pytest.mark.parametrize("mixture", ["digits", "all", "texts"])
def test_packed_batches_equal_the_tasks_own(experiment, packs, mixture):
    ours = with_data(experiment, packed=str(packs), root="/nowhere", reader="seqio")  # neither is looked at
    for a, b in zip(
        first(make_feed(ours, mixture, 10), 12), first(make_feed(experiment, mixture, 10), 12), strict=True
    ):
        assert_same(a, b)


def test_names_survive(experiment, packs):
    source = packed.PackedSource(str(packs), "random", experiment.data, experiment.features)
    assert source[3].id.startswith("random_digits/")
    assert source[3].speaker in ("anna", "bert")
    assert source[3].scored_words == 3
    assert len(source[3].word_ends) == 6
    assert source[3].word_ends[-1] == len(source[3].samples)
    assert packed.PackedSource(str(packs), "texts", experiment.data, experiment.features)[0].word_ends == ()


def test_smaller_limits_leave_out_and_count(experiment, packs):
    whole = packed.PackedSource(str(packs), "digits", experiment.data, experiment.features)
    seconds = sorted(len(whole[i].samples) / 16_000 for i in range(len(whole)))
    tight = with_data(experiment, max_seconds=seconds[40] + 1e-6)
    source = packed.PackedSource(str(packs), "digits", tight.data, tight.features)
    assert len(source) == 41
    assert len(source.rejected["longer than max_seconds"]) == 9
    assert max(len(source[i].samples) for i in range(41)) <= tight.data.max_seconds * 16_000


def test_writing_is_whole_or_not_at_all(experiment, packs, monkeypatch):
    with pytest.raises(UserError, match="exists already"):
        packing.pack(experiment, "digits", packs)
    with pytest.raises(UserError, match="no task 'nothing'"):
        packing.pack(experiment, "nothing", packs)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="No space left on device"):
        packing.pack(experiment, "spoken", packs)
    assert sorted(p.name for p in packs.iterdir()) == ["digits", "random", "texts"]


def test_bad_folders_are_named(experiment, packs):
    def read():
        return packed.PackedSource(str(packs), "digits", experiment.data, experiment.features)

    with pytest.raises(UserError, match="'/nowhere/digits' is not a packed task"):
        make_feed(with_data(experiment, packed="/nowhere"), "digits", 4)
    samples = packs / "digits" / "samples.bin"
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-2])
    with pytest.raises(UserError, match="cut short"):
        read()
    samples.write_bytes(whole)
    index = packs / "digits" / "index.npz"
    content = index.read_bytes()
    for damaged in (b"", content[:-30]):
        index.write_bytes(damaged)
        with pytest.raises(UserError, match="is not a packed task"):
            read()
    index.write_bytes(content)
    meta = packs / "digits" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "sample_rate": 8000}))
    with pytest.raises(UserError, match="packed at 8000 Hz"):
        read()
    meta.write_text(meta.read_text()[:40])
    with pytest.raises(UserError, match="is not a packed task"):
        read()


def test_texts_are_read_without_their_sentencepiece_model(tmp_path):
    path = tmp_path / "pieces.model"
    path.write_bytes(make_pieces(["one two three", "ONE TWO THREE"] * 20, 25))
    (tmp_path / "texts.txt").write_text("ONE TWO\nthree\n" * 4)
    size = make_vocabulary(SentencePieceConfig(str(path))).size
    data = DataConfig(
        root=str(tmp_path), reader="direct", tasks=(TaskConfig("t", "text", normaliser="lower"),), max_tokens=20,
        vocabulary=SentencePieceConfig(str(path), size),
    )  # fmt: skip
    whole = Experiment("x", data, ())
    packing.pack(whole, "t", tmp_path / "packs")
    packs = with_data(whole, packed=str(tmp_path / "packs"))
    without = with_data(packs, vocabulary=SentencePieceConfig(str(tmp_path / "gone.model"), size))
    for a, b in zip(first(make_feed(without, "t", 3), 4), first(make_feed(whole, "t", 3), 4), strict=True):
        assert_same(a, b)
    path.with_name("other.model").write_bytes(make_pieces(["one two three", "ONE TWO", "HERE"] * 20, 25))
    for vocabulary in (
        SentencePieceConfig(str(path.with_name("other.model"))),
        SentencePieceConfig(str(tmp_path / "gone.model"), size + 1),
    ):
        with pytest.raises(UserError, match=r"packed with another data\.vocabulary"):
            make_feed(with_data(packs, vocabulary=vocabulary), "t", 3)
    with pytest.raises(UserError, match=r"packed with data\.tasks\.t\.normaliser=lower, not keep"):
        make_feed(with_data(packs, tasks=(TaskConfig("t", "text"),)), "t", 3)


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"seqio", "tensorflow", "tensorflow_datasets", "librosa", "soundfile", "soxr"}:
            raise ImportError(f"blocked: {name}")

sys.meta_path.insert(0, Block())
from spectron.config import from_json
from spectron.data import batches, packed, vocabulary
experiment = from_json(sys.argv[1])
batch = next(batches.make_feed(experiment, "all", 10).batches())
print(batch.samples.shape, batch.text.sum())
"""


def test_reading_needs_numpy_alone(experiment, packs, run_python):
    from spectron.config import to_json

    ours = with_data(experiment, packed=str(packs), reader="seqio")
    done = run_python(BLOCKED, to_json(ours))
    batch = first(make_feed(ours, "all", 10), 1)[0]
    assert done.stdout.split("\n")[0] == f"{batch.samples.shape} {batch.text.sum()}"
