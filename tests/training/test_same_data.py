"""What a run goes on from: the same data wherever it lies, and one process at a time."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_run

from spectron.audio import wav
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.config import SentencePieceConfig, StageConfig, StreamConfig, TaskConfig, TextLMConfig
from spectron.data.batches import make_feed
from spectron.data.vocabulary import make_pieces
from spectron.training import loop
from spectron.training.runs import PROCESS, ProcessFile, only_writer
from spectron.types import UserError

TEXTS = ["one two three", "two three", "three one", "zero two one"] * 3


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    monkeypatch.setattr("spectron.training.step.make_objectives", tiny_run.stands)
    monkeypatch.setattr(loop, "make_objectives", tiny_run.stands)


def experiment(root, steps=2, **data):
    """A text LM on a file of texts."""
    plain = tiny_run.experiment()
    task = TaskConfig("texts", "text", root=str(root))
    stage = StageConfig("text", (StreamConfig(TextLMConfig(), "texts", 2),), steps, plain.stages[0].optimizer)
    data = dataclasses.replace(plain.data, tasks=(task,), reader="direct", **data)
    return dataclasses.replace(plain, data=data, stages=(stage,))


def test_a_run_goes_on_with_its_data_at_another_place_and_not_with_other_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert loop.train(experiment("texts.txt"), run)
    assert loop.train(experiment(tmp_path / "texts.txt"), run)
    shutil.move("texts.txt", "moved.txt")
    assert loop.train(experiment("moved.txt"), run)
    assert "finished at step 2" in capsys.readouterr().out
    # Not finished yet: then the data are opened, and must be the same.
    shutil.rmtree(run)
    assert not loop.train(experiment("moved.txt", 4), run, stop_after=2)
    (tmp_path / "other.txt").write_text("\n".join(TEXTS[::-1]))
    with pytest.raises(UserError, match=r"data of task 'texts' is not what the checkpoint in .* was trained with"):
        loop.train(experiment("other.txt", 4), run)
    assert loop.train(experiment(tmp_path / "moved.txt", 4), run)


def test_the_fingerprint_is_of_content_not_of_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = []
        for i in range(3):
            samples = np.random.default_rng(i).integers(-3000, 3000, 6400 + 160 * i).astype(np.int16)
            wav.write(tmp_path / name / f"{name}{i}.flac", samples, 16_000)
            rows.append(json.dumps({"id": f"{name}{i}", "audio": f"{name}{i}.flac", "text": "one"}))
        (tmp_path / name / "manifest.jsonl").write_text("\n".join(rows))

    def digest(folder):
        plain = tiny_run.experiment()
        data = dataclasses.replace(
            plain.data, tasks=(TaskConfig("heard", "manifest", root=str(folder)),), reader="direct",
            prompt_seconds=0.2, min_continuation_seconds=0.0125,
        )  # fmt: skip
        return make_feed(dataclasses.replace(plain, data=data), "heard", 1).fingerprints

    assert list(digest(tmp_path / "a")) == ["heard"]
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    samples = np.random.default_rng(9).integers(-3000, 3000, 6400).astype(np.int16)
    wav.write(tmp_path / "b" / "b0.flac", samples, 16_000)  # of the same length
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def test_a_checkpoint_carries_its_sentencepiece_model(tmp_path, monkeypatch):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    monkeypatch.chdir(tmp_path)
    sort = {"max_tokens": 40}
    (tmp_path / "pieces.model").write_bytes(make_pieces(TEXTS, 20))
    assert not loop.train(
        experiment(tmp_path / "texts.txt", 4, vocabulary=SentencePieceConfig("pieces.model"), **sort),
        tmp_path / "run", stop_after=2,
    )  # fmt: skip
    shutil.move("pieces.model", "elsewhere.model")
    elsewhere = SentencePieceConfig(str(tmp_path / "elsewhere.model"))
    other = make_pieces(["zero one", "nine one"] * 9, 12)
    (tmp_path / "pieces.model").write_bytes(other)  # what the path names now
    vocabulary = Checkpoint.open(tmp_path / "run").experiment.data.vocabulary
    assert vocabulary.path.startswith("sha256:")
    with pytest.raises(UserError, match="names another SentencePiece model than the checkpoint"):
        loop.train(
            experiment(tmp_path / "texts.txt", 4, vocabulary=SentencePieceConfig("pieces.model"), **sort),
            tmp_path / "run",
        )
    assert loop.train(experiment(tmp_path / "texts.txt", 4, vocabulary=elsewhere, **sort), tmp_path / "run")


HOLD = """
import sys, time
from pathlib import Path
from spectron.training.runs import only_writer
with only_writer(Path(sys.argv[1]), True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_trains_in_a_folder_and_the_other_is_told_which(tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    folder = tmp_path / "run" / "text"
    folder.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert holder.stdout.readline() == b"held\n"
        with ProcessFile(folder, {"text": 4}, [], 0, write=True):
            pass
        record = json.loads((folder / PROCESS).read_text())
        with pytest.raises(UserError, match=f"Process {record['pid']} on {record['host']} is training in"):
            loop.train(experiment(tmp_path / "texts.txt"), tmp_path / "run")
        assert not (folder / "metrics.jsonl").exists()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert loop.train(experiment(tmp_path / "texts.txt"), tmp_path / "run")  # a killed process holds nothing
    with only_writer(folder, write=True):
        pass
