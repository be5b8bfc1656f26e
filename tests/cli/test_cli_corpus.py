"""`spectron data cut | convert | label | write | report`, as a user types them."""

import functools
import json
import sys

import pytest
from librilight_tree import Fake, add_chapter, talk

from spectron import cli
from spectron.data.shards import Shards
from spectron.recognition import recogniser as recognisers

SPANS = [[0.96, 6.0], [7.04, 12.0], [13.04, 19.04], [20.0, 29.04]]
INLINE = ["--runner", "inline"]


def fake(log, path):
    return Fake(log)


@pytest.fixture
def recogniser(tmp_path, monkeypatch):
    """spectron.recognition.recogniser with a fake."""
    monkeypatch.setattr(recognisers, "load_recogniser", functools.partial(fake, str(tmp_path / "log")))
    monkeypatch.setattr(recognisers, "resolve_recogniser", str)


@pytest.fixture
def root(tmp_path):
    for book in range(3):
        add_chapter(tmp_path / "ll", f"small/{book}/book_{book}/01", talk(SPANS, 30, seed=book), SPANS)
    add_chapter(tmp_path / "ll", "small/9/b/short", talk([], 1), [])
    return tmp_path / "ll"


def spectron(*words):
    return cli.main([str(word) for word in words])


def test_from_libri_light_to_shards_for_training(root, tmp_path, capsys, recogniser):
    settings = ("--set", "cutting.target_seconds=12", "shard_megabytes=1")
    assert spectron("data", "cut", root, "--out", tmp_path / "cut", *settings, *INLINE) == 0
    said = capsys.readouterr().out
    assert "9 utterances" in said
    assert "3 speakers" in said
    assert 'left out: 1 chapters shorter than min_seconds, the first: "small/9/b/short"' in said
    assert spectron("data", "label", tmp_path / "cut", "--recogniser", "T", "--out", tmp_path / "labels", *INLINE) == 0
    labels = ("--labels", tmp_path / "labels")
    assert spectron("data", "write", tmp_path / "cut", *labels, "--out", tmp_path / "final", *INLINE) == 0
    assert len(Shards(tmp_path / "final")) == 9
    assert Shards(tmp_path / "final")[3].labelled_by == "fake"
    assert spectron("data", "report", tmp_path / "final", "--out", tmp_path / "report") == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["labelled_by"] == {"fake": 9}


def test_a_task_of_a_config(root, tmp_path, capsys):
    (tmp_path / "manifest.jsonl").write_text(
        "".join(
            json.dumps(
                {"id": f"m{i}", "audio": f"ll/small/{i}/book_{i}/01.flac", "text": f"words {i}", "speaker": f"s{i}"}
            )
            + "\n"
            for i in range(3)
        )
    )
    (tmp_path / "config.py").write_text(
        "from spectron.config import DataConfig, Experiment, TaskConfig\n"
        "def experiment():\n"
        f"    return Experiment('x', DataConfig({str(tmp_path)!r}, tasks=(TaskConfig('m', 'manifest'),)), ())\n"
    )
    (tmp_path / "speakers").write_text("s0\ns2\n")
    config = ("--config", tmp_path / "config.py")
    assert spectron("data", "convert", "m", *config, "--out", tmp_path / "a", *INLINE) == 0
    assert [Shards(tmp_path / "a")[i].text for i in range(3)] == ["words 0", "words 1", "words 2"]
    some = ("--drop-text", "--speakers", tmp_path / "speakers")
    assert spectron("data", "convert", "m", *config, "--out", tmp_path / "b", *some, *INLINE) == 0
    shards = Shards(tmp_path / "b")
    assert [(shards[i].speaker, shards[i].text) for i in range(len(shards))] == [("s0", ""), ("s2", "")]
    assert spectron("data", "convert", "n", *config, "--out", tmp_path / "b", *INLINE) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("cut", "nowhere", "--out", "OUT"), "Libri-Light root 'nowhere' is not a folder"),
        (("cut", "ROOT", "--out", "OUT", "--set", "cutting.target_secs=3"), "did you mean 'target_seconds'"),
        (("cut", "ROOT", "--out", "OUT", "--set", "cutting.min_seconds=30"), "cutting.min_seconds=30"),
        (("cut", "ROOT", "--out", "OUT", "--split", "valid"), "--split 'valid' is unknown"),
        (("cut", "ROOT", "--out", "OUT", "--libriheavy", "none.gz"), "Manifest 'none.gz' does not exist"),
        (("cut", "ROOT", "--out", "OUT", "--splitt", "train"), "'--splitt' is not a flag of this command"),
        (("label", "OUT", "--recogniser", "none", "--out", "L"), "none"),
        (("write", "OUT", "--out", "L"), "holds no shards"),
        (("report", "OUT"), "holds no shards"),
    ],
)
def test_a_mistake_is_one_sentence(root, tmp_path, capsys, words, sentence):
    words = [{"ROOT": str(root), "OUT": str(tmp_path / "out"), "L": str(tmp_path / "l")}.get(w, w) for w in words]
    assert spectron("data", *words, *([] if words[0] == "report" else INLINE)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("spectron: ")
    assert sentence in said
    assert "\n" not in said


def test_without_beam_the_user_is_told(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert spectron("data", "cut", root, "--out", tmp_path / "cut") == 2
    assert "pip install 'spectron-jax[beam]', or give --runner inline" in capsys.readouterr().err


def test_a_flag_that_beam_does_not_know_either(root, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason="pip install 'spectron-jax[beam]'")
    assert spectron("data", "cut", root, "--out", tmp_path / "cut", "--splitt", "train") == 2
    assert "'--splitt' is a flag of neither this command nor Beam" in capsys.readouterr().err
    assert spectron("data", "cut", root, "--out", tmp_path / "cut", "--direct_num_workers", "1") == 0


@pytest.mark.parametrize(
    "words", [("data", "report", "x", "--runner", "inline"), ("train", "x", "--workdir", "y", "--z")]
)
def test_flags_are_passed_on_by_pipelines_alone(words, capsys):
    with pytest.raises(SystemExit) as left:
        spectron(*words)
    assert left.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
