"""The pre-training recipe in configs/librilight.py, each of its tasks through seqio to batches, with tiny data."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import assert_same, first, with_data

pytest.importorskip("seqio", reason="the extra 'data' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from spectron.audio import wav
from spectron.config import BytesConfig, Experiment, load_experiment
from spectron.data.batches import make_feed
from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard
from spectron.data.vocabulary import make_vocabulary

CONFIG = Path(__file__).parents[2] / "configs" / "librilight.py"
RATE = 16_000


def noise(seconds: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=round(seconds * RATE)) * 500).astype(np.int16)


def utterance(name: str, seconds: float, seed: int, broken: bool = False) -> Utterance:
    samples = noise(seconds, seed)
    audio = encode_flac(samples, RATE)
    return Utterance(name, "s", "b", audio[: len(audio) // (2 if broken else 1)], RATE, len(samples), f"text {name}")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Experiment:
    """The recipe in miniature: a second is a quarter, a batch a sixteenth; every layout in a folder of its own."""
    root = tmp_path_factory.mktemp("corpora")
    lengths = np.random.default_rng(0).uniform(1.3, 3.9, 60).round(3)
    for i, split in enumerate(("train-clean-100", "train-clean-360", "train-other-500")):
        book = root / "LibriSpeech" / split / "1" / "2"
        for j in range(10):
            wav.write(book / f"1-2-{i}{j}.flac", noise(lengths[10 * i + j], j), RATE)
        (book / "1-2.trans.txt").write_text("".join(f"1-2-{i}{j} SAY {j}\n" for j in range(10)))
    for j in range(10):
        wav.write(root / "lj" / "wavs" / f"LJ{j}.wav", noise(lengths[30 + j], j), RATE)
        wav.write(root / "own" / f"{j}.flac", noise(lengths[40 + j], j), RATE)
    (root / "lj" / "metadata.csv").write_text("".join(f"LJ{j}|in {j}|in {j}\n" for j in range(10)))
    rows = ({"audio": f"{j}.flac", "text": f"mine {j}", "duration": lengths[40 + j]} for j in range(10))
    (root / "own" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "books.txt").write_text("".join(f"book {j}\n" for j in range(20)))
    for number, size in enumerate((7, 1, 4)):
        shard = (utterance(f"u{number}{j}", lengths[48 + number + j], j) for j in range(size))
        write_shard(shard_path(root / "shards", number), shard)
    experiment = load_experiment(CONFIG)
    roots = {"librilight": root / "shards", "ljspeech": root / "lj", "own": root / "own", "books": root / "books.txt"}
    tasks = tuple(
        dataclasses.replace(t, root=str(roots.get(t.name, root)), normaliser="lower") for t in experiment.data.tasks
    )
    quarter = {name: getattr(experiment.data, name) / 4 for name in ("max_seconds", "max_continuation_seconds")}
    return with_data(
        experiment, tasks=tasks, vocabulary=BytesConfig(), row_multiple=2, prompt_seconds=0.9375,
        min_continuation_seconds=0.25, buckets=tuple(b / 4 for b in experiment.data.buckets), **quarter,
    )  # fmt: skip


def test_every_task_and_mixture_goes_through_seqio_to_batches(recipe):
    names = [task.name for task in recipe.data.tasks] + [mixture.name for mixture in recipe.data.mixtures]
    assert {task.source for task in recipe.data.tasks} == {"shards", "librispeech", "ljspeech", "manifest", "text"}
    for name in names:
        ours = first(make_feed(with_data(recipe, reader="seqio"), name, 4), 3)
        assert all(batch.text_mask.any(axis=1).all() for batch in ours)
        assert all((batch.num_samples > 0).all() or name == "books" for batch in ours)
        for a, b in zip(ours, first(make_feed(with_data(recipe, reader="direct"), name, 4), 3), strict=True):
            assert_same(a, b)


def heard(recipe, count=1, steps=2, **changes) -> list[list[str]]:
    """Per process, the texts of its batches; one bucket, so that an epoch of twelve is two batches of six."""
    ours = with_data(recipe, reader="direct", buckets=(0.5,), bucket_tokens=(), row_multiple=3, **changes)
    shares = []
    for process in range(count):
        batches = first(make_feed(ours, "librilight", 6, process, count), steps)
        rows = [row[mask] for b in batches for row, mask in zip(b.text, b.text_mask, strict=True)]
        shares.append([make_vocabulary(recipe.data.vocabulary).decode(row) for row in rows])
    return shares


def test_three_processes_read_shards_of_7_1_and_4_evenly(recipe):
    names = [f"text u{number}{j}" for number, size in enumerate((7, 1, 4)) for j in range(size)]
    for steps in (2, 4):  # one epoch, two
        shares = heard(recipe, 3, steps)
        assert [len(share) for share in shares] == [2 * steps] * 3
        assert sorted(text for share in shares for text in share) == sorted(names * (steps // 2))
    assert sorted(heard(recipe)[0]) == sorted(names)


def test_a_broken_record_in_a_shard_is_skipped_counted_and_named(recipe, tmp_path, caplog):
    for number, size in enumerate((7, 1, 4)):
        shard = (utterance(f"u{number}{j}", 2 + 0.1 * j, j, broken=(number, j) == (2, 1)) for j in range(size))
        write_shard(shard_path(tmp_path, number), shard)
    tasks = tuple(dataclasses.replace(t, root=str(tmp_path)) for t in recipe.data.tasks if t.name == "librilight")
    texts = heard(recipe, tasks=tasks, mixtures=())[0]
    assert "text u21" not in texts
    assert len(set(texts)) == 11  # all others once, one of them in its place
    assert caplog.text.count("'u21'") == 1
    assert "record left out (1 so far)" in caplog.text
