"""The training loop, one for every objective.

Read from the bottom: `train` runs the stages of an experiment, `train_stage` prepares one, `run` is the loop. The
start of a stage is in stage.py, the step that the devices execute in step.py.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.checkpoints.trees import merge
from spectron.config import Experiment, StageConfig, check_settings
from spectron.cost.chips import peak_flops
from spectron.data.batches import Feed, make_feed
from spectron.data.example import Source
from spectron.data.order import BatchShape
from spectron.models.encoder import encoder_features, unit_statistics
from spectron.objectives import Objective, make_objectives
from spectron.objectives.base import main_metrics, step_flops
from spectron.parallel import multihost, sharding
from spectron.training.console import MAIN_METRICS
from spectron.training.metrics import MetricsLog, Work
from spectron.training.runs import ProcessFile, only_writer
from spectron.training.shared_folder import check_shared, newest_step
from spectron.training.stage import (
    check_buckets,
    check_same,
    check_same_data,
    check_stage,
    find_statistics,
    fresh_state,
    open_sources,
    reading,
)
from spectron.training.step import CompiledSteps, StageProgram, make_program
from spectron.training.validation import make_validation
from spectron.types import Array, Batch, Params, TrainState, UserError
from spectron.utils.compilation_cache import use_compilation_cache
from spectron.utils.disk import disk_full
from spectron.utils.files import check_out


def open_feeds(experiment: Experiment, stage: StageConfig) -> list[Feed]:
    """One feed per stream, of this process's rows. Streams and stages draw independently."""
    index, count = jax.process_index(), jax.process_count()
    seeds = [zlib.crc32(f"{experiment.seed}/{stage.name}/{i}".encode()) for i in range(len(stage.streams))]
    opened: dict[str, Source] = {}
    return [
        make_feed(experiment, stream.mixture, stream.batch_size, index, count, seed, opened)
        for stream, seed in zip(stage.streams, seeds, strict=True)
    ]


# The loop.


def run(
    program: StageProgram,
    state: TrainState,
    feeds: Sequence[Iterator[Batch]],
    log: MetricsLog,
    save: Callable[[int, TrainState], None],
    stopping: Callable[[int], bool],
    measure: Callable[[Sequence[Batch]], Work],
    validate: Callable[[Params], dict[str, float]] | None = None,
) -> int:
    """Steps from the state's to the stage's last, or until `stopping(step)`. Returns the step reached, which is saved.

    Step n is dispatched before the metrics of step n−1 are read. Each new shape of batches is compiled once. Raises
    UserError at a metric that is NaN or infinite.
    """
    stage, step, unread = program.stage, int(state.step), None
    compiled = CompiledSteps(program)
    while step < stage.steps:
        batches = tuple(next(feed) for feed in feeds)
        began, placed = time.monotonic(), program.put(batches)
        if compiled.prepare(state, placed):
            # Collectives wait at most half a minute for a peer; compilation times may differ by more.
            multihost.barrier(f"{stage.name}/{step}")
            log.pause(time.monotonic() - began)
        state, metrics = compiled(state, placed)
        step += 1
        if unread is not None:
            record(log, stage, *unread)
        unread = (step, metrics, measure(batches))
        if validate is not None and (step == stage.steps or step % stage.evaluate_every == 0):
            record(log, stage, *unread)
            began, unread = time.monotonic(), None
            log.validation(step, validate(merge(state.ema or state.params, state.frozen)))
            log.pause(time.monotonic() - began)
        last = step == stage.steps or stopping(step)
        if last or step % stage.save_every == 0:
            if unread is not None:
                record(log, stage, *unread)  # a state is saved only after its step's metrics were checked
                unread = None
            save(step, state)
        if last:
            break
    return step


def measure_work(objectives: Sequence[Objective], sample_rate: int, trained: Params, batches: Sequence[Batch]) -> Work:
    """The work of a step, from this process's batches (each process has as many rows of the same shape).

    Seconds and positions are of these rows, the other figures of the whole step. trained: the parameters that are
    trained, abstract or real.
    """
    count = jax.process_count()
    shapes = [BatchShape(b.size * count, b.samples.shape[1], b.text.shape[1]) for b in batches]
    pairs = zip(objectives, batches, strict=True)
    real, computed = np.sum([objective.batch_positions(batch) for objective, batch in pairs], axis=0)
    return Work(
        examples=sum(shape.rows for shape in shapes),
        seconds=sum(int(np.sum(b.num_samples)) for b in batches) / sample_rate,
        real=int(real),
        computed=int(computed),
        flops=step_flops(objectives, shapes, trained).step / jax.device_count(),
    )


def record(log: MetricsLog, stage: StageConfig, step: int, metrics: dict[str, Array], work: Work) -> None:
    """Wait for a step's metrics and log them. Raises UserError naming the first that is NaN or infinite."""
    host = jax.device_get(metrics)
    values = {name: float(host[name]) for name in sorted(host, key=lambda name: (name != "loss", name))}
    for name in reversed(values):  # the total last: the name of a term is more precise
        if not np.isfinite(values[name]):
            raise UserError(
                f"Training stopped: {name} became {values[name]} at step {step} of stage {stage.name!r}; the last "
                f"good checkpoint is kept; lower stages.{stage.name}.optimizer.learning_rate or look at its data."
            )
    log.add(step, values, work)


def train_stage(
    experiment: Experiment, stage: StageConfig, workdir: Path, stopping: Callable[[int], bool] = lambda step: False
) -> bool:
    """Train one stage in workdir/STAGE from its newest checkpoint on. True when it has reached its last step."""
    folder = workdir / stage.name
    mesh = sharding.make_mesh(experiment.mesh)
    check_stage(stage, mesh)
    check_buckets(experiment.data, experiment.features, stage, mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_writer(folder, jax.process_index() == 0))
        saver = stack.enter_context(Checkpointer(folder / FOLDER, stage.keep))
        newest = newest_step(saver.latest, saver.directory)
        saved, first = open_saved(saver, newest, experiment, stage, workdir), newest or 0
        if saved is not None and first >= stage.steps:
            print(f"{stage.name}: finished at step {first}", flush=True)
            return True
        main = main_metrics(stage.streams, MAIN_METRICS)
        steps = {each.name: each.steps for each in experiment.stages}
        process = stack.enter_context(ProcessFile(folder, steps, main, first, jax.process_index() == 0))
        sources = {} if saved is not None else open_sources(experiment, stage, workdir)
        feeds = open_feeds(experiment, stage)
        fingerprints = {task: digest for feed in feeds for task, digest in feed.fingerprints.items()}
        if saved is not None:
            check_same_data(saved, experiment, fingerprints)
        sample, streams = peek([stack.enter_context(reading(feed, first)) for feed in feeds])
        if saved is not None:
            measured = saved.statistics
        else:
            speech = next((f for f, batch in zip(feeds, sample, strict=True) if batch.samples.shape[1]), None)
            measured = find_statistics(sources, speech, experiment.features, encoder_features(experiment))
        statistics = measured or unit_statistics(experiment)
        stack.enter_context(jax.set_mesh(mesh))  # from here on, as statistics are measured on one device
        program = make_program(experiment, stage, statistics, sample, mesh)
        log = open_log(stage, folder, first, main, process.beat)
        stack.callback(log.close)
        if saved is not None:
            state, bases = saved.restore(program.abstract), saved.bases
            log.restore(saved.meta["window"])
        else:
            state, bases = fresh_state(program, sources, saver.directory / "0")
        log.console.say(describe(stage, state, first))
        meta = make_meta(experiment, stage.name, measured) | {"bases": bases, "data": fingerprints}

        def save(step: int, state: TrainState) -> None:
            saver.save(step, state, meta | {"window": log.state()})

        objectives = make_objectives(stage.streams, experiment)
        measure = functools.partial(measure_work, objectives, experiment.features.sample_rate, program.abstract.params)
        validate = make_validation(experiment, stage, statistics, mesh) if stage.evaluate_on else None
        reached = run(program, state, streams, log, save, stopping, measure, validate)
        saver.close()
        log.summary(reached)
    return reached >= stage.steps


def open_saved(
    saver: Checkpointer, step: int | None, experiment: Experiment, stage: StageConfig, workdir: Path
) -> Checkpoint | None:
    """The stage's checkpoint of a step, None before the first. Raises UserError if this experiment does not fit it."""
    if step is None:
        return None
    saved = Checkpoint.open(saver.directory / str(step))
    check_same(saved.experiment, experiment, stage, saved.folder)
    if "imported" in saved.meta and step < stage.steps:
        raise UserError(
            f"The checkpoint in {str(saved.folder)!r} was imported and has no optimizer state to continue with; give "
            f"another --workdir and name {str(workdir)!r} in stages.{stage.name}.start_from."
        )
    return saved


def describe(stage: StageConfig, state: TrainState, first: int) -> str:
    """The log's first line: how many parameters are trained, and from which step on."""
    frozen = f" and {count(state.frozen):,} frozen" if state.frozen else ""
    start = f"from step {first}" if first else "from the start"
    return f"{stage.name}: {count(state.params):,} parameters{frozen}, {start}"


def open_log(
    stage: StageConfig, folder: Path, first: int, main: Sequence[str], beat: Callable[[int], None]
) -> MetricsLog:
    """The stage's metrics log; process 0 writes it. main and beat: as in MetricsLog."""
    return MetricsLog(
        folder=folder,
        stage=stage.name,
        first=first,
        last=stage.steps,
        every=stage.log_every,
        write=jax.process_index() == 0,
        peak=peak_flops(jax.devices()) / jax.device_count(),
        main=main,
        beat=beat,
    )


def peek(streams: Sequence[Iterator[Batch]]) -> tuple[list[Batch], list[Iterator[Batch]]]:
    """The first batch of every stream, and streams that still begin with it."""
    first = [next(stream) for stream in streams]

    def again(batch: Batch, stream: Iterator[Batch]) -> Iterator[Batch]:
        yield batch
        yield from stream

    return first, [again(batch, stream) for batch, stream in zip(first, streams, strict=True)]


def count(params: Params) -> int:
    """Number of elements of all arrays in a tree."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


# The whole experiment.


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM, which cluster managers send before they take the machine, into a flag.

    In a multi-process job one process alone may receive it: there JAX handles the signal, and lets all processes agree
    on a step to stop at.
    """
    asked = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def train(
    experiment: Experiment, workdir: str | Path, stages: Sequence[str] | None = None, stop_after: int | None = None
) -> bool:
    """Run the stages in order in workdir/STAGE: finished ones are skipped, a started one continues from its checkpoint.

    stages: only these. stop_after: stop after this step of a stage, as SIGTERM does. True when all have finished.
    Raises UserError for anything the user can correct.
    """
    check_settings(experiment)
    check_out(workdir, "--workdir")
    chosen = experiment.stages if stages is None else [experiment.stage(name) for name in stages]
    use_compilation_cache()
    check_shared(Path(workdir).absolute())
    try:
        with stopping_on_sigterm() as asked:
            for stage in chosen:
                if not train_stage(experiment, stage, Path(workdir).absolute(), stopper(asked, stop_after)):
                    print("Stopped early; the same command goes on from here.", flush=True)
                    return False
    except Exception as error:
        if isinstance(error, UserError) or not disk_full(error):
            raise
        raise UserError(
            f"The disk with {str(workdir)!r} is full: {error}; free some space and run the same command."
        ) from error
    return True


def stopper(asked: Callable[[], bool], stop_after: int | None) -> Callable[[int], bool]:
    """Returns step → whether to stop after it: on SIGTERM or at `stop_after`.

    asked: whether this process has received SIGTERM; ignored in a job of several processes, where JAX lets all
    processes agree on a step after any of them received it.
    """

    def stopping(step: int) -> bool:
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            return multihost_utils.reached_preemption_sync_point(step) or step == stop_after
        return asked() or step == stop_after

    return stopping
