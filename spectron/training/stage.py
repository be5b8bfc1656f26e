"""Where a stage starts: the checks at the door, statistics, parameters of earlier stages, or its own checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectron.audio.features import log_mel, measure
from spectron.checkpoints import manager
from spectron.checkpoints.manager import FOLDER
from spectron.config import Experiment, FeatureConfig, StageConfig, as_dict
from spectron.data.batches import Feed
from spectron.data.buckets import bucket_shapes
from spectron.models.encoder import encoder_features
from spectron.parallel import sharding
from spectron.training.step import Plan
from spectron.types import Batch, Statistics, TrainState, UserError

STATISTICS_EXAMPLES = 200  # ours: minutes of speech settle means and deviations of 128 bands to a few per cent


@contextlib.contextmanager
def reading(feed: Feed, step: int) -> Iterator[Iterator[Batch]]:
    """A feed's batches from a step on; the thread behind them ends with the block."""
    batches: Any = feed.batches(step)
    with contextlib.closing(batches):
        yield batches


def source_folder(experiment: Experiment, stage: StageConfig, source: str, workdir: Path) -> Path:
    """Where start_from points: an earlier stage of this work folder, or a checkpoint folder."""
    names = [s.name for s in experiment.stages]
    if source in names[: names.index(stage.name)]:
        folder = workdir / source
        if not (folder / FOLDER).is_dir():
            raise UserError(
                f"Stage {stage.name!r} starts from stage {source!r}, which has no checkpoint in {str(workdir)!r}; "
                f"train it first."
            )
        return folder
    return Path(source)


def fresh_state(experiment: Experiment, plan: Plan, workdir: Path) -> TrainState:
    """A fresh state, its parts replaced by those that start_from names."""
    parts = plan.abstract.params
    for part, _ in plan.stage.start_from:
        if part not in parts:
            raise UserError(
                f"stages.{plan.stage.name}.start_from: there is no part {part!r}; this stage has {', '.join(parts)}."
            )
    state = plan.init()
    params = dict(state.params)
    for part, source in plan.stage.start_from:
        folder = source_folder(experiment, plan.stage, source, workdir)
        params[part] = manager.load_part(folder, part, parts[part])
    ema = jax.tree.map(jnp.copy, params) if state.ema else {}
    return dataclasses.replace(state, params=params, ema=ema)


def find_statistics(
    experiment: Experiment, stage: StageConfig, workdir: Path, speech: Feed | None
) -> Statistics | None:
    """Log-mel statistics: of the checkpoints in start_from (the encoder's first: it was trained on them), else measured
    on the first batches of the feed `speech`, else None (text only)."""
    for _, source in sorted(stage.start_from, key=lambda pair: pair[0] != "encoder"):
        found = manager.statistics_of(
            manager.read_meta(manager.find(source_folder(experiment, stage, source, workdir)))
        )
        if found is not None:
            return found
    if speech is None:
        return None
    measured = _measure(speech, experiment.features)
    own = encoder_features(experiment)
    if own is not None:
        measured = dataclasses.replace(measured, encoder=_measure(speech, own))
    if jax.process_count() > 1:  # the same rows, but hosts may round differently
        from jax.experimental import multihost_utils

        measured = multihost_utils.broadcast_one_to_all(measured)
    return jax.tree.map(np.asarray, measured)


def _measure(speech: Feed, features: FeatureConfig) -> Statistics:
    """Log-mel statistics of the feed's first examples."""
    convert = jax.jit(lambda samples, count: log_mel(samples, count, features))

    def log_mels() -> Iterator[np.ndarray]:
        seen = 0
        with reading(speech, 0) as batches:
            while seen < STATISTICS_EXAMPLES:
                batch = next(batches)
                seq = convert(batch.samples, batch.num_samples)
                values, lengths = np.asarray(seq.values), np.asarray(seq.lengths)
                yield from (values[row, :length] for row, length in enumerate(lengths))
                seen += len(lengths)

    return measure(log_mels(), features)


def check_stage(stage: StageConfig, mesh: Any) -> None:
    """Raise UserError for a stage that cannot run on this mesh."""
    if not stage.streams:
        raise UserError(f"stages.{stage.name}.streams is empty; name at least one objective and mixture.")
    if stage.optimizer.accumulate < 1:
        raise UserError(f"stages.{stage.name}.optimizer.accumulate is {stage.optimizer.accumulate}; give 1 or more.")
    if sharding.batch_shards(mesh) % jax.process_count():
        raise UserError(
            f"mesh: {jax.process_count()} processes would share rows, which only the axes replica, data and fsdp split "
            f"({sharding.batch_shards(mesh)} parts); keep tensor within a process."
        )
    for name in ("save_every", "log_every", "evaluate_every"):
        if getattr(stage, name) < 1:
            raise UserError(f"stages.{stage.name}.{name} is {getattr(stage, name)}; give 1 or more steps.")
    parts = sharding.batch_shards(mesh) * stage.optimizer.accumulate
    for stream in stage.streams:
        if stream.batch_size % parts:
            raise UserError(
                f"stages.{stage.name}.streams.{stream.key}.batch_size {stream.batch_size} must be a multiple of "
                f"{parts} (the mesh's {sharding.batch_shards(mesh)} batch shards x accumulate "
                f"{stage.optimizer.accumulate})."
            )


def check_buckets(experiment: Experiment, stage: StageConfig, mesh: Any) -> None:
    """Raise UserError for buckets whose rows the mesh and the micro-batches do not divide."""
    parts = sharding.batch_shards(mesh) * stage.optimizer.accumulate
    for stream in stage.streams if experiment.data.buckets else ():
        if any(room.rows % parts for room in bucket_shapes(experiment.data, experiment.features, stream.batch_size)):
            raise UserError(
                f"data.row_multiple {experiment.data.row_multiple} must be a multiple of {parts} for stage "
                f"{stage.name!r} (the mesh's {sharding.batch_shards(mesh)} batch shards x accumulate "
                f"{stage.optimizer.accumulate}), or some buckets' rows do not divide."
            )


def without_buckets(experiment: Experiment) -> Experiment:
    """The same data in batches of all lengths."""
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, buckets=(), bucket_tokens=()))


# A run may go on with these changed: none of them changes what a step computes.
FREE = {
    *("name", "mesh", "data.root", "data.packed", "data.reader", "data.readers", "features.dft", "model.remat"),
    *("model.encoder.features.dft", "model.logits_chunk", "model.lm.attention"),
    *("stage.save_every", "stage.log_every", "stage.keep"),
    *("stage.evaluate_on", "stage.evaluate_every", "stage.evaluate_examples"),
}


def check_same(saved: Experiment, experiment: Experiment, stage: StageConfig, folder: Path) -> None:
    """Raise UserError naming the first key in which the checkpoint's experiment differs from this one.

    Other stages, and tasks and mixtures that this stage does not read, may differ.
    """

    def flat(node: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(node, (list, tuple)) and node and isinstance(node[0], dict):
            kinds = [child.get("objective", {}).get("kind") for child in node]
            labels = [
                str(child.get("name") or kind or i) for i, (child, kind) in enumerate(zip(node, kinds, strict=True))
            ]
            node = {label if label not in labels[:i] else str(i): node[i] for i, label in enumerate(labels)}
        if isinstance(node, dict):
            return {k: v for key, child in node.items() for k, v in flat(child, f"{prefix}{key}.").items()}
        return {prefix[:-1]: node}

    def relevant(experiment: Experiment) -> dict[str, Any]:
        mine = next((s for s in experiment.stages if s.name == stage.name), None)
        read = {stream.mixture for stream in (mine.streams if mine else ())}
        mixtures = tuple(m for m in experiment.data.mixtures if m.name in read)
        read |= {task for mixture in mixtures for task, _ in mixture.rates}
        tasks = tuple(task for task in experiment.data.tasks if task.name in read)
        data = dataclasses.replace(experiment.data, mixtures=mixtures, tasks=tasks)
        whole = as_dict(dataclasses.replace(experiment, data=data, stages=()))
        return {k: v for k, v in flat(whole | {"stage": mine and as_dict(mine)}).items() if k not in FREE}

    old, new = relevant(saved), relevant(experiment)
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            shown = key.replace("stage.", f"stages.{stage.name}.", 1) if key.startswith("stage.") else key
            raise UserError(
                f"The checkpoint in {str(folder)!r} was trained with {shown} = {old.get(key)!r}, this config says "
                f"{new.get(key)!r}; set it back or give another --workdir."
            )
