"""The noisy student loop: its data by speaker, its configs, and that a killed one goes on to the same end."""

import dataclasses
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import student_run

from spectron.config import CTCConfig, JointConfig, load_loop
from spectron.config.noisy_student import LoopConfig, SplitConfig
from spectron.noisy_student import loop as student
from spectron.objectives.ctc import CTC
from spectron.objectives.joint import Joint
from spectron.types import Batch, Statistics, UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("configs/noisy_student.py", "configs/recogniser.py")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("tones")
    student_run.write_all(root)
    return root


def test_speakers_are_disjoint(corpus):
    loop = student_run.loop(str(corpus))
    found = student.speakers_of(loop)
    assert found == student.speakers_of(loop)
    assert found["dev"] == ["4"]
    assert len(found["labelled"]) == 1
    assert sorted(found["labelled"] + found["pool"]) == ["1", "2", "3"]
    draws = {
        student.speakers_of(dataclasses.replace(loop, split=dataclasses.replace(loop.split, seed=seed)))["labelled"][0]
        for seed in range(9)
    }
    assert len(draws) > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": SplitConfig("none.jsonl", "held/manifest.jsonl")}, "none.jsonl"),
        ({"split": SplitConfig("corpus/manifest.jsonl", "corpus/manifest.jsonl", labelled_share=0.4)}, "'dev'"),
        ({"split": SplitConfig("corpus/manifest.jsonl", "held/manifest.jsonl", labelled_share=1.0)}, "'pool'"),
    ],
)
def test_a_split_that_cannot_be_is_said(corpus, change, said):
    with pytest.raises(UserError, match=said):
        student.speakers_of(dataclasses.replace(student_run.loop(str(corpus)), **change))


def test_a_loop_that_cannot_run_is_said(corpus):
    loop = student_run.loop(str(corpus))
    teacher, one, _ = loop.generations
    with pytest.raises(UserError, match="generations names 'teacher' twice"):
        student.check(dataclasses.replace(loop, generations=(teacher, teacher)))
    blind = dataclasses.replace(one.experiment, data=dataclasses.replace(one.experiment.data, tasks=()))
    with pytest.raises(UserError, match="'labelled'"):
        student.check(dataclasses.replace(loop, generations=(teacher, dataclasses.replace(one, experiment=blind))))
    other = dataclasses.replace(one.experiment, stages=())
    with pytest.raises(UserError, match="stage 'ctc'"):
        student.check(dataclasses.replace(loop, generations=(dataclasses.replace(teacher, experiment=other),)))


def test_a_generation_reads_the_work_folder(corpus, tmp_path):
    one = student_run.loop(str(corpus)).generations[1]
    placed = student.placed(one, tmp_path, tmp_path / "teacher")
    assert [task.root for task in placed.data.tasks] == [
        str(tmp_path / "data" / "labelled"),
        str(tmp_path / "one" / "pseudo"),
    ]
    source = str(tmp_path / "teacher" / "training" / "ctc")
    assert placed.stages[0].start_from == (("encoder", source), ("ctc_head", source))
    afresh = dataclasses.replace(one, start_from_previous=False)
    assert student.placed(afresh, tmp_path, tmp_path / "teacher").stages[0].start_from == ()


def test_time_adds_up_over_restarts(tmp_path):
    (tmp_path / "seconds.json").write_text('{"train": 100.0, "label": 5.0}')
    with student.timed(tmp_path, "train"):
        time.sleep(0.2)
    found = json.loads((tmp_path / "seconds.json").read_text())
    assert found["label"] == 5.0
    assert 100.1 < found["train"] < 110


@pytest.mark.parametrize("path", CONFIGS)
def test_configs_are_loops(path):
    loop = load_loop(ROOT / path, ["root=somewhere", "generations.teacher.experiment.stages.ctc.steps=7"])
    assert loop.root == "somewhere"
    assert loop.generations[0].experiment.stages[0].steps == 7
    student.check(loop)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist"),
        ("x = 1\n", "loop"),
        ("def loop():\n    return 3\n", "LoopConfig"),
        ("import nonsense_that_is_not_there\n", "cannot be run"),
    ],
)
def test_a_config_that_is_no_loop_is_named(tmp_path, text, said):
    path = tmp_path / "c.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_loop(path)


def test_the_real_recognisers_encoder_is_one_spectron_can_start_from():
    """Every path and shape of the encoder, and at most 30 M parameters."""
    experiment = load_loop(ROOT / "configs/recogniser.py").generations[0].experiment
    statistics = Statistics(np.zeros(128, np.float32), np.ones(128, np.float32))
    none = np.zeros((1, 8), np.int32)
    batch = Batch(
        samples=np.zeros((1, 16000), np.int16),
        num_samples=none[:, 0],
        prompt_samples=none[:, 0],
        text=none,
        text_mask=none > 0,
        text_loss_mask=none > 0,
        token_ends=none,
    )
    key = jax.random.key(0)
    params = jax.eval_shape(CTC(CTCConfig(), experiment, statistics).init, key, batch)
    assert sum(x.size for x in jax.tree.leaves(params)) <= 30e6
    spectron = Joint(JointConfig(), experiment, statistics)
    mine = jax.tree.map(lambda x: x.shape, params["encoder"])
    assert mine == jax.tree.map(lambda x: x.shape, jax.eval_shape(spectron.init, key, batch)["encoder"])


needs_flashlight = pytest.mark.skipif(
    importlib.util.find_spec("flashlight") is None, reason="flashlight-text is not installed"
)


@pytest.mark.slow
@needs_flashlight
def test_killed_anywhere_it_goes_on_to_the_same_end(tmp_path, corpus):
    command = [sys.executable, str(ROOT / "tests" / "student_run.py"), str(corpus)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, timeout=600)
    whole, kills = time.monotonic() - began, 0
    rng = random.Random(1)
    for _ in range(20):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment)
        try:
            assert process.wait(timeout=rng.uniform(0.15, 0.4) * whole) == 0
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills >= 2
    for name in ("one/labels/shard-00000.jsonl", "one/selection.json", "two/labels/shard-00000.jsonl"):
        first, second = ((tmp_path / run / name).read_text() for run in ("whole", "killed"))
        assert first.replace(str(tmp_path / "whole"), "") == second.replace(str(tmp_path / "killed"), ""), name
    first, second = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("whole", "killed"))
    for a, b in zip(first["generations"], second["generations"], strict=True):
        assert a["dev"] == b["dev"]
        assert a["labels"] == b["labels"]
    # Tones are easy: the teacher hears most words.
    assert first["generations"][0]["dev"]["fused"]["value"] < 0.5
    assert "| teacher |" in (tmp_path / "killed" / "results.md").read_text()
    assert isinstance(student_run.loop(""), LoopConfig)
