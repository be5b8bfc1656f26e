"""Libri-Light to batches: cut, label, write, read; stopped anywhere and started again."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from data_helpers import assert_same, first
from librilight_tree import FakeFactory, Selective, add_chapter, contents, talk, tree_of_links

from spectron.config import DataConfig, Experiment, FeatureConfig, TaskConfig
from spectron.corpora import pipelines
from spectron.corpora.cutting import CuttingConfig
from spectron.corpora.labels import labels_path, read_labels, write_labels
from spectron.corpora.pipelines import CorpusConfig
from spectron.corpora.report import distribution, write_report
from spectron.data.batches import make_feed
from spectron.data.example import BadExample
from spectron.data.shard_source import ShardSource
from spectron.data.shards import Shards, Utterance, encode_flac, shard_path, write_shard
from spectron.data.sources import make_source
from spectron.types import UserError

INLINE = ("--runner", "inline")
SPANS = [[0.96, 6.0], [7.04, 12.0], [13.04, 19.04], [20.0, 29.04]]
SMALL = CorpusConfig(shard_megabytes=1.5)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """20 chapters, hard-linked to three files; one of them is broken and one has no JSON."""
    root = tmp_path_factory.mktemp("librilight")
    sources = [
        add_chapter(root / "sources", "a/b/1", talk(SPANS, 30), SPANS),
        add_chapter(root / "sources", "a/b/2", talk(SPANS[:3], 24, seed=1)),
        add_chapter(root / "sources", "a/b/3", talk(SPANS[1:], 30, seed=2), SPANS[1:]),
    ]
    tree_of_links(root / "tree", sources, 20)
    whole = sources[0].read_bytes()
    (root / "tree/small/100/book_0000_64kb_mp3/torn_64kb.flac").write_bytes(whole[: len(whole) // 3])
    return root / "tree"


def through(tree, out, log, options=INLINE, **fake):
    pipelines.cut(tree, out / "cut", SMALL, options=options)
    pipelines.label(out / "cut", out / "labels", FakeFactory(log, **fake), "fake", 4, options)
    return pipelines.write(out / "cut", out / "final", out / "labels", Selective(), options=options)


@pytest.fixture(scope="module")
def made(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    report = through(tree, out, out / "log")
    return out, report


def experiment(folder, **changes):
    limits = {
        "prompt_seconds": 3.75,
        "max_seconds": 16.0,
        "max_prompt_seconds": 3.75,
        "max_continuation_seconds": 12.25,
    }
    data = DataConfig(str(folder), tasks=(TaskConfig("pool", "shards"),), max_tokens=64, **(limits | changes))
    return Experiment("test", data, ())


def test_from_chapters_to_batches(made):
    out, report = made
    shards = Shards(out / "final")
    assert len(shards.paths) > 4
    assert report["utterances"] == len(shards) > 20
    assert report["labelled_by"] == {"fake": len(shards)}
    labels = {x.id: x for i in range(len(shards.paths)) for x in read_labels(labels_path(out / "labels", i))}
    assert report["rejected"]["score too low"]["count"] == sum(x.score < -8 for x in labels.values()) > 0
    for i in range(0, len(shards), 7):
        u = shards[i]
        assert (u.text, u.score, u.labelled_by) == (labels[u.id].text, labels[u.id].score, "fake")
    feed = make_feed(experiment(out / "final"), "pool", 4)
    direct = make_feed(experiment(out / "final", reader="direct"), "pool", 4)
    for a, b in zip(first(feed, 3), first(direct, 3), strict=True):
        assert a.samples.shape == (4, 256_000)
        assert (a.num_samples >= 4.75 * 16_000).all()
        assert a.text_mask.any(axis=1).all()
        assert_same(a, b)


def test_stopped_at_any_shard_it_ends_up_the_same(tree, made, tmp_path, monkeypatch):
    whole, _ = made
    real, count = pipelines.write_shard, [0]

    def dying(*arguments):
        count[0] += 1
        if count[0] % 3 == 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pipelines, "write_shard", dying)
    stops = 0
    for _ in range(100):
        try:
            through(tree, tmp_path, tmp_path / "log", dies_after=3)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 6
    for name in ("cut", "labels", "final"):
        assert contents(tmp_path / name) == contents(whole / name), name
    assert Counter((tmp_path / "log").read_text().split("\n")) == Counter((whole / "log").read_text().split("\n"))


def test_the_report_says_what_is_there(made):
    out, report = made
    found = json.loads((out / "cut" / "report.json").read_text())
    shards = Shards(out / "cut")
    assert found["utterances"] == len(shards)
    assert found["hours"] == pytest.approx(shards.lengths.sum() / 16_000 / 3600, abs=1e-4)
    assert found["speakers"] == 2
    assert found["books"] == 4
    assert found["recordings"] == 20
    assert sum(found["seconds"]["histogram"]["counts"]) == len(shards)
    assert found["notes"]["chapters without JSON: own voice activity"]["count"] == 7  # the torn one is left out before
    assert any("torn_64kb" in name for x in found["rejected"].values() for name in x["first"])
    assert report["score_per_token"]["min"] >= -8 / 6
    page = (out / "final" / "report.html").read_text()
    assert "<svg" in page
    assert "score too low" in page
    assert "://" not in page
    assert "| hours |" in (out / "final" / "report.md").read_text()
    before = contents(out / "cut")
    write_report(out / "cut")
    assert contents(out / "cut") == before


def test_other_settings_are_refused_in_a_sentence(tree, made):
    out, _ = made
    other = dataclasses.replace(SMALL, cutting=CuttingConfig(target_seconds=12.0))
    with pytest.raises(UserError, match=r"cutting.target_seconds 15.0, this run has 12.0"):
        pipelines.cut(tree, out / "cut", other, options=INLINE)
    with pytest.raises(UserError, match=r"selection.limit -8.0, this run has -2.0"):
        pipelines.write(out / "cut", out / "final", out / "labels", Selective(-2.0), options=INLINE)
    with pytest.raises(UserError, match="was started with kind 'cut'"):
        pipelines.write(out / "cut", out / "cut", options=INLINE)


def test_another_tree_is_refused(tree, made, tmp_path):
    tree_of_links(tmp_path, sorted(tree.rglob("*.flac"))[:1], 3)
    with pytest.raises(UserError, match="was started with"):
        pipelines.cut(tmp_path, made[0] / "cut", SMALL, options=INLINE)


def test_splits_share_no_speaker(tree, tmp_path):
    config = dataclasses.replace(SMALL, splits=dataclasses.replace(SMALL.splits, test_share=0.5))
    pipelines.cut(tree, tmp_path / "train", config, "train", INLINE)
    pipelines.cut(tree, tmp_path / "test", config, "test", INLINE)
    speakers = [{s[i].speaker for i in range(len(s))} for s in (Shards(tmp_path / "train"), Shards(tmp_path / "test"))]
    assert not speakers[0] & speakers[1]
    assert all(speakers)
    with pytest.raises(UserError, match="no speaker for the split 'dev'"):
        pipelines.cut(tree, tmp_path / "dev", config, "dev", INLINE)
    with pytest.raises(UserError, match="--split 'valid'"):
        pipelines.cut(tree, tmp_path / "dev", config, "valid", INLINE)


def shard_of(folder, **changes):
    samples = np.arange(80_000).astype(np.int16)
    base = Utterance("good", "s", "b", encode_flac(samples, 16_000), 16_000, 80_000, "some words")
    write_shard(shard_path(folder, 0), [base, base._replace(**changes)])
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_samples": 60_000}, "shorter than the prompt plus min_continuation_seconds"),
        ({"num_samples": 256_001}, "longer than max_seconds"),
        ({"text": ""}, "without text"),
        ({"text": "x" * 64}, "more tokens than max_tokens"),
    ],
)
def test_what_cannot_fit_is_left_out_by_the_index(tmp_path, changes, reason):
    config = experiment(shard_of(tmp_path, id="odd", **changes))
    source = make_source(config.data.tasks[0], config.data, FeatureConfig())
    assert isinstance(source, ShardSource)
    assert len(source) == 1
    assert {why: list(ids) for why, ids in source.rejected.items()} == {reason: ["odd"]}
    assert source.lengths.tolist() == [80_000]
    assert source[0].id == "good"


def test_a_damaged_record_is_one_bad_example(tmp_path):
    silent = encode_flac(np.zeros(80_000, np.int16), 16_000)
    for changes in ({"audio": b"fLaC"}, {"audio": silent}, {"num_samples": 80_001}):
        config = experiment(shard_of(tmp_path, id="odd", **changes))
        source = make_source(config.data.tasks[0], config.data, FeatureConfig())
        with pytest.raises(BadExample, match="odd"):
            source[1]


def test_shards_at_another_rate_are_resampled(tmp_path):
    config = experiment(shard_of(tmp_path, sample_rate=8000, audio=encode_flac(np.arange(80_000) % 999, 8000)))
    source = make_source(config.data.tasks[0], config.data, FeatureConfig())
    assert source.lengths.tolist() == [80_000, 160_000]
    assert len(source[1].samples) == 160_000


def test_texts_that_break_things(tmp_path):
    samples = encode_flac(np.arange(80_000).astype(np.int16), 16_000)
    texts = ["fine", "a\0b\x1b c", "x" * 20_000, " \n ", "fine again"]
    ids = ["a", "b", "c", "d", "a"]
    utterances = [Utterance(i, "", "", samples, 16_000, 80_000, t) for i, t in zip(ids, texts, strict=True)]
    write_shard(shard_path(tmp_path / "in", 0), utterances[:3])
    write_shard(shard_path(tmp_path / "in", 1), utterances[3:])
    report = pipelines.write(tmp_path / "in", tmp_path / "out", options=INLINE)
    counted = {reason: found["first"] for reason, found in report["rejected"].items()}
    assert counted == {"text longer than max_characters": ["c"], "without text": ["d"], "duplicate ids": ["a"]}
    shards = Shards(tmp_path / "out")
    assert [shards[i].text for i in range(len(shards))] == ["fine", "ab c"]


def test_labels_that_are_missing_or_of_others(tmp_path, made):
    out, _ = made
    with pytest.raises(UserError, match="has no labels of"):
        pipelines.write(out / "cut", tmp_path / "x", tmp_path, options=INLINE)
    for i in range(len(Shards(out / "cut").paths)):
        write_labels(labels_path(tmp_path / "few", i), read_labels(labels_path(out / "labels", i))[1:])
    report = pipelines.write(out / "cut", tmp_path / "x", tmp_path / "few", options=INLINE)
    assert report["rejected"]["without a label"]["count"] == len(Shards(out / "cut").paths)


@pytest.mark.parametrize("keep_text", [True, False])
def test_a_task_becomes_shards(tmp_path, keep_text):
    folder = tmp_path / "corpus" / "LibriSpeech" / "dev-clean" / "12" / "34"
    folder.mkdir(parents=True)
    lines = []
    for i in range(7):
        add_chapter(folder, f"12-34-{i:04d}", talk([(0, 2 + i)], 3 + i, seed=i))
        lines.append(f"12-34-{i:04d} WORDS {i}")
    (folder / "12-34-0003.flac").write_bytes(b"broken")
    (folder / "12-34.trans.txt").write_text("\n".join(lines))
    task = TaskConfig("speech", "librispeech", "dev-clean", str(tmp_path / "corpus"))
    report = pipelines.from_task(
        task, DataConfig(), FeatureConfig(), tmp_path / "out", keep_text, per_shard=4, options=INLINE
    )
    assert report["rejected"]["that cannot be read"]["count"] == 1
    shards = Shards(tmp_path / "out")
    assert [shards[i].id[-1] for i in range(len(shards))] == list("012456")
    assert (shards[5].speaker, shards[5].book) == ("12", "34")
    assert shards[5].text == ("WORDS 6" if keep_text else "")
    np.testing.assert_array_equal(shards[5].samples(), talk([(0, 8)], 9, seed=6))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_beam_makes_the_same_bytes(tree, made, tmp_path, run_python, workers):
    pytest.importorskip("apache_beam", reason="pip install 'spectron-jax[beam]'")
    options = [f"--direct_num_workers={workers}"]
    if workers > 1:
        options.append("--direct_running_mode=multi_processing")
    run_python(PIPELINE, str(tree), str(tmp_path), "0", json.dumps(options))
    for name in ("cut", "labels", "final"):
        assert contents(tmp_path / name) == contents(made[0] / name), name


PIPELINE = """
import json, os, sys
sys.path[:0] = [os.path.abspath("tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), sys.path[0]])  # of Beam's workers
from librilight_tree import FakeFactory, Selective
from spectron.corpora import pipelines
tree, out, delay, options = sys.argv[1], sys.argv[2], float(sys.argv[3]), json.loads(sys.argv[4])
if __name__ == "__main__":
    config = pipelines.CorpusConfig(shard_megabytes=1.5)
    pipelines.cut(tree, out + "/cut", config, options=options)
    pipelines.label(out + "/cut", out + "/labels", FakeFactory(out + "/log", delay), "fake", 4, options)
    pipelines.write(out + "/cut", out + "/final", out + "/labels", Selective(), options=options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_and_started_again(tmp_path, seed):
    from benchmarks import librilight

    found = librilight.run(tmp_path, chapters=120, kills=3, seed=seed, megabytes=4, delay=0.005)
    assert len(found["killed_at"]) == 3
    assert found["labelled"] > 240
    assert (found["labelled_twice"], found["not_labelled"]) == (0, 0)


def test_lengths_that_are_all_but_equal_are_one_bar():
    found = distribution(np.asarray([0.5, 0.5 + 1e-16, np.nextafter(0.5, 1)]))
    assert sum(found["histogram"]["counts"]) == 3 and max(found["histogram"]["counts"]) == 3
    assert distribution(np.asarray([1.0, 2.0]))["histogram"]["counts"][0] == 1
