"""The loop: stages, restarts, stops and averages, on a model small enough to train in seconds."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import NoiseFeed, experiment, noise_batch, stands

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.steps import FOLDER, steps_in
from spectron.config import (
    CTCConfig,
    ObjectiveConfig,
    StageConfig,
    StreamConfig,
    TaskConfig,
    TextLMConfig,
)
from spectron.objectives import make_objective, make_objectives
from spectron.parallel import sharding
from spectron.training import loop, step
from spectron.training import stage as start_of
from spectron.training.metrics import RATES, MetricsLog, Work, forget_after
from spectron.types import Losses, Term, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))

SCRIPT = Path(__file__).parents[1] / "tiny_run.py"
# The real model's joint stage, by itself, every loss and dropout on.
JOINT = (
    *("--real", "--stages", "joint", "--set", "stages.joint.start_from=[]", "stages.joint.steps=8"),
    *(
        "stages.joint.save_every=2",
        "stages.joint.streams.spectron.objective.alignment_weight=1",
        "stages.joint.streams.spectron.objective.agreement_weight=1",
    ),
)


@pytest.fixture(autouse=True)
def noise(monkeypatch):
    """Batches of noise instead of a corpus, and objectives that compile in a second."""
    monkeypatch.setattr(loop, "make_feed", NoiseFeed)
    monkeypatch.setattr(step, "make_objectives", stands)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of the stages "text" and "speech"."""
    folder = tmp_path_factory.mktemp("finished")
    result = start(folder)
    assert result.wait(600) == 0, (folder / "log").read_text()
    return folder


def start(workdir, *arguments, devices=1, output=None, **environment):
    """Start a run; what it prints is appended to WORKDIR/log, or goes where `output` says."""
    environment = os.environ | environment | {"PYTHONPATH": str(SCRIPT.parents[1])}
    if devices > 1:  # NPROC: XLA's threads. Collectives wait in them, and devices can need more than there are cores.
        environment |= {
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
            "NPROC": str(4 * devices),
        }
    with (workdir / "log").open("a") as log:
        command = [sys.executable, str(SCRIPT), str(workdir), *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=output or log, text=True, stderr=subprocess.STDOUT)


def lines(workdir, stage="speech"):
    path = workdir / stage / "metrics.jsonl"
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in RATES} for row in rows]


def wait_for_line(process, workdir, number):
    limit = time.monotonic() + 120
    path = workdir / "speech" / "metrics.jsonl"
    while not path.exists() or len(path.read_bytes().splitlines()) < number:
        assert process.poll() is None, (workdir / "log").read_text()
        assert time.monotonic() < limit
        time.sleep(0.02)


def copy_text_stage(finished, workdir):
    shutil.copytree(finished / "text", workdir / "text")


def same_params(a, b, tolerance=0.0):
    a, b = Checkpoint.open(a), Checkpoint.open(b)
    assert a.step == b.step
    pair = (jax.tree.leaves(each.load(prefer_ema=False)) for each in (a, b))
    for x, y in zip(*pair, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_kill_9_at_a_random_step_changes_nothing(finished, tmp_path):
    copy_text_stage(finished, tmp_path)
    process = start(tmp_path, "--pause", 0.1)
    wait_for_line(process, tmp_path, random.SystemRandom().randint(5, 11))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert steps_in(tmp_path / "speech" / FOLDER)[-1] < 12
    assert start(tmp_path).wait(600) == 0, (tmp_path / "log").read_text()
    assert "from step" in (tmp_path / "log").read_text()
    assert lines(tmp_path) == lines(finished)
    same_params(tmp_path / "speech", finished / "speech")


@pytest.mark.slow
def test_a_run_moves_to_another_mesh(finished, tmp_path):
    copy_text_stage(finished, tmp_path)
    process = start(tmp_path, "--pause", 0.1, "--mesh", "data=2,fsdp=2,tensor=2", devices=8)
    wait_for_line(process, tmp_path, 6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(tmp_path, "--mesh", "data=4,fsdp=2", devices=8).wait(600) == 0, (tmp_path / "log").read_text()
    assert "from step" in (tmp_path / "log").read_text()
    for here, there in zip(lines(tmp_path), lines(finished), strict=True):
        assert here.keys() == there.keys()
        for name in here.keys() - {"stage"}:
            assert here[name] == pytest.approx(there[name], rel=1e-5, abs=1e-5), (here["step"], name)


@pytest.mark.slow
def test_sigterm_saves_and_leaves_cleanly(finished, tmp_path):
    copy_text_stage(finished, tmp_path)
    process = start(tmp_path, "--pause", 0.1)
    wait_for_line(process, tmp_path, 5)
    process.terminate()
    assert process.wait(60) == 0
    assert "goes on from here" in (tmp_path / "log").read_text()
    reached = steps_in(tmp_path / "speech" / FOLDER)[-1]
    assert 5 <= reached < 12
    assert lines(tmp_path) == lines(finished)[:reached]


def test_a_full_disk_ends_with_one_sentence_and_exit_code_2(finished, tmp_path):
    copy_text_stage(finished, tmp_path)
    cache = str(tmp_path / "cache")  # its own: the limit would leave halves of programs in it
    # The checkpoint of step 12 is taken away; then no file may grow past what metrics need and a checkpoint exceeds.
    shutil.rmtree(tmp_path / "text" / FOLDER / "12")
    process = start(
        tmp_path, "--stages", "text", "--file-limit", 3000, output=subprocess.PIPE, JAX_COMPILATION_CACHE_DIR=cache
    )
    told = process.communicate(timeout=600)[0]
    assert process.returncode == 2, told
    assert told.splitlines()[-1].startswith("spectron: The disk is full: saving to"), told
    assert "the checkpoint of step 8 is kept" in told
    assert "Traceback" not in told
    assert [path.name for path in (tmp_path / "text" / FOLDER).iterdir()] == ["8"]


def test_a_stage_starts_from_the_average_of_an_earlier_one(finished):
    config = experiment()
    stage = dataclasses.replace(config.stage("speech"), steps=1)
    text = Checkpoint.open(finished / "text").load()
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        sample = [noise_batch(config, s.mixture, 8, 0, 0) for s in stage.streams]
        statistics = Checkpoint.open(finished / "speech").statistics
        program = step.make_program(config, stage, statistics, sample, mesh)
        sources = start_of.open_sources(config, stage, finished)
        state, bases = start_of.fresh_state(program, sources, finished / "speech" / FOLDER / "0")
    for x, y in zip(jax.tree.leaves(state.params["lm"]), jax.tree.leaves(text["lm"]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert set(state.params) == {"encoder", "ctc_head", "lm"}
    assert jax.tree.structure(state.ema) == jax.tree.structure(state.params)
    assert (state.frozen, bases) == ({}, {})


@pytest.mark.slow
def test_the_real_joint_stage_without_corpus_libraries_and_through_kill_9(tmp_path, run_python):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    run_python(
        "import sys\n"
        "for name in ('tensorflow', 'seqio', 'librosa', 'soundfile', 'torch'): sys.modules[name] = None\n"
        "sys.path.insert(0, 'tests')\n"
        "import tiny_run; sys.exit(tiny_run.main())",
        *(str(whole), *JOINT),
    )
    rows = lines(whole, "joint")
    wanted = {"loss", "text", "alignment", "frames", "delta_freq", "delta_time_1", "stop", "grad_norm", "learning_rate"}
    assert wanted <= set(rows[0])
    assert rows[-1]["step"] == 8
    process = start(killed, *JOINT, "--pause", 1.0)
    while not steps_in(killed / "joint" / FOLDER):  # saving goes on beside the steps
        assert process.poll() is None, (killed / "log").read_text()
        time.sleep(0.02)
    time.sleep(random.SystemRandom().uniform(0, 2))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert steps_in(killed / "joint" / FOLDER)[-1] < 8
    assert start(killed, *JOINT).wait(600) == 0, (killed / "log").read_text()
    assert "from step" in (killed / "log").read_text()
    assert lines(killed, "joint") == rows
    same_params(killed / "joint", whole / "joint")


def test_finished_stages_are_skipped_and_another_config_is_refused(finished, capsys):
    assert loop.train(experiment(), finished, ["text", "speech"])
    assert "speech: finished at step 12" in capsys.readouterr().out
    assert loop.train(experiment("stages.speech.keep=9", "data.root=elsewhere"), finished, ["text"])
    with pytest.raises(UserError, match=r"model\.lm\.dim = 16, this config has 32"):
        loop.train(experiment("model.lm.dim=32"), finished, ["text"])
    with pytest.raises(UserError, match=r"stages\.text\.streams\.text_lm\.batch_size = 16, this config has 8"):
        loop.train(experiment("stages.text.streams.text_lm.batch_size=8"), finished, ["text"])
    assert loop.train(experiment("stages.speech.optimizer.learning_rate=1"), finished, ["text"])
    for name, same in (("other", True), ("text", False)):  # a task that the stage reads, and one that it does not
        data = dataclasses.replace(experiment().data, tasks=(TaskConfig(name, "text"),))
        with contextlib.nullcontext() if same else pytest.raises(UserError, match=r"data\.tasks"):
            loop.train(dataclasses.replace(experiment(), data=data), finished, ["text"])


def test_a_stage_without_its_source_is_one_sentence(finished, tmp_path):
    with pytest.raises(UserError, match=r"starts from stage 'text', which has no checkpoint"):
        loop.train(experiment(), tmp_path, ["speech"])
    wrong = dataclasses.replace(experiment().stage("text"), start_from=(("vocoder", str(finished / "text")),))
    config = dataclasses.replace(experiment(), stages=(wrong,))
    with pytest.raises(UserError, match=r"no part 'vocoder'; this stage has lm"):
        loop.train(config, tmp_path)


def test_nan_names_the_metric_and_the_step_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    def poisoned(*arguments):
        (objective,) = stands(*arguments)
        loss = objective.loss

        def bad(params, batch, key, train=True):
            losses = loss(params, batch, key, train)
            nan = jnp.where(batch.text[0, 0] == marked, jnp.nan, 1.0)
            return dataclasses.replace(losses, coefficients={k: v * nan for k, v in losses.coefficients.items()})

        objective.loss = bad
        return [objective]

    marked = 99
    monkeypatch.setattr(step, "make_objectives", poisoned)
    clean = NoiseFeed.batches

    def batches(self, start_step=0):
        for number, batch in enumerate(clean(self, start_step), start_step):
            batch.text[0, 0] = marked if number == 6 else batch.text[0, 0]
            yield batch

    monkeypatch.setattr(NoiseFeed, "batches", batches)
    with pytest.raises(UserError, match=r"grad_norm became nan at step 7 of stage 'text'"):
        loop.train(experiment(), tmp_path, ["text"])
    assert steps_in(tmp_path / "text" / FOLDER) == [4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages.text.accumulate=3", "batch_size 16 must be a multiple of"),
        ("stages.text.accumulate=0", "accumulate=0 must be at least 1"),
        ("stages.text.save_every=0", "save_every=0 must be at least 1"),
        ("stages.text.log_every=0", "log_every=0 must be at least 1"),
        ("stages.text.evaluate_every=0", "evaluate_every=0 must be at least 1"),
        ("stages.text.optimizer.schedule=cosin", "did you mean cosine"),
    ],
)
def test_impossible_settings_are_one_sentence(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        loop.train(experiment(change), tmp_path, ["text"])


@dataclasses.dataclass(frozen=True)
class QuadraticConfig(ObjectiveConfig, kind="quadratic"):
    """Of a test."""


class Quadratic:
    """Terms with unequal weights per row, worked out by hand."""

    parts = ("w",)

    def loss(self, params, batch, key, train=True):
        values = jnp.sum((batch.text * params["w"]) ** 2, axis=1)
        weight = batch.text_mask.sum(axis=1)
        counted = Term(jnp.sum(values * weight), jnp.sum(weight).astype(jnp.float32))
        return Losses({"a": counted, "b": Term(jnp.sum(values), jnp.float32(len(values)))}, {"a": jnp.float32(2.0)})


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_give_the_gradient_of_the_whole(parts):
    rng = np.random.default_rng(0)
    config = experiment()
    batches = tuple(noise_batch(config, "text", 8, seed, 0) for seed in (1, 2))
    streams = (StreamConfig(QuadraticConfig(), "x", 8, weight=0.5), StreamConfig(QuadraticConfig(), "y", 8))
    loss = step.make_loss(StageConfig("s", streams), [Quadratic(), Quadratic()])
    params = {"w": jnp.asarray(rng.normal(size=6), jnp.float32)}
    key = jax.random.key(0)
    whole, expected = step.gradients(loss, params, batches, key, 1)
    losses, grads = jax.jit(step.gradients, static_argnums=(0, 4))(loss, params, batches, key, parts)
    np.testing.assert_allclose(grads["w"], expected["w"], rtol=1e-5)
    by_hand = sum(
        scale * 2.0 * 2.0 * params["w"] * np.average(b.text**2, axis=0, weights=b.text_mask.sum(1))
        for scale, b in zip((0.5, 1.0), batches, strict=True)
    )
    np.testing.assert_allclose(grads["w"], by_hand, rtol=1e-5)
    assert set(losses.terms) == {"quadratic_0/a", "quadratic_0/b", "quadratic_1/a", "quadratic_1/b"}
    for name, value in whole.means().items():
        assert float(losses.means()[name]) == pytest.approx(float(value), rel=1e-5)


def test_another_objective_does_not_change_the_initial_values_of_the_first():
    config = experiment()
    batch = noise_batch(config, "speech", 1, 0, 0)
    configs = (CTCConfig(), TextLMConfig())
    statistics = step.Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))
    objectives = [make_objective(c, config, statistics) for c in configs]
    init = jax.jit(lambda: sharding.unbox(step.init_params(objectives, [batch] * 2, 0)))()
    alone = jax.jit(lambda: sharding.unbox(step.init_params(objectives[:1], [batch], 0)))()
    for part in objectives[0].parts:
        for x, y in zip(jax.tree.leaves(init[part]), jax.tree.leaves(alone[part]), strict=True):
            np.testing.assert_array_equal(x, y)
    assert set(init) == {part for o in objectives for part in o.parts}


def test_the_weights_pass_of_accumulation_costs_nothing():
    config = experiment("model.lm.dropout=0")
    stage = StageConfig("s", (StreamConfig(TextLMConfig(), "text", 16),), accumulate=4)
    statistics = step.Statistics(np.zeros(16, np.float32), np.ones(16, np.float32))
    objectives = make_objectives(stage.streams, config, statistics)
    batches = (noise_batch(config, "text", 16, 0, 0),)
    params = sharding.unbox(jax.eval_shape(lambda: step.init_params(objectives, batches, 0)))
    loss = step.make_loss(stage, objectives)

    def products(parts):
        function = jax.jit(lambda p, b: step.gradients(loss, p, b, jax.random.key(0), parts))
        return function.lower(params, batches).compile().as_text().count(" dot(")

    assert products(4) == products(1) > 0


def test_metrics_forget_what_a_killed_run_wrote_too_much(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4}\n{"step": 8}\n{"step": 9}\n{"st')
    forget_after(path, 8)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n'


def test_a_line_is_the_mean_since_the_last_also_across_a_restart(tmp_path):
    log = MetricsLog(tmp_path, "s", 0, 10, 3)
    for number in (1, 2):
        log.add(number, {"loss": float(number), "learning_rate": float(number)}, Work(8, 1.0))
    log.close()
    again = MetricsLog(tmp_path, "s", 2, 10, 3)
    again.restore(json.loads(json.dumps(log.state())))
    again.add(3, {"loss": 6.0, "learning_rate": 3.0}, Work(8, 1.0))
    again.close()
    rows = lines(tmp_path.parent, tmp_path.name)
    assert [(row["step"], row["loss"], row["learning_rate"]) for row in rows] == [(1, 1.0, 1.0), (3, 4.0, 3.0)]


def test_tensorboard_gets_the_same_numbers(finished):
    events = list((finished / "speech" / "tensorboard").glob("events*"))
    assert events
    assert b"grad_norm" in events[0].read_bytes()
