"""The start of a stage: checks of its settings, its sources, log-mel statistics, and the initial state."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spectron.audio.features import log_mel, measure
from spectron.checkpoints.checkpoint import Base, Checkpoint, base_of, place
from spectron.checkpoints.steps import FOLDER
from spectron.checkpoints.trees import merge, paths_of, select
from spectron.config import (
    DataConfig,
    Experiment,
    FeatureConfig,
    SentencePieceConfig,
    StageConfig,
    VocabularyConfig,
    as_dict,
)
from spectron.data.batches import Feed
from spectron.data.buckets import bucket_shapes
from spectron.data.vocabulary import lacks_pieces, read_pieces
from spectron.parallel import sharding
from spectron.training.agreement import check_source, source_statistics
from spectron.training.step import StageProgram
from spectron.types import Batch, Statistics, TrainState, UserError

STATISTICS_EXAMPLES = 200  # ours: minutes of speech give means and deviations of 128 bands to a few per cent
STATISTICS_ROWS = 8  # ours: of them on the device at once; a stage's whole batch may have thousands


@contextlib.contextmanager
def reading(feed: Feed, step: int) -> Iterator[Iterator[Batch]]:
    """A feed's batches from a step on; its reader thread ends with the block."""
    batches: Any = feed.batches(step)
    with contextlib.closing(batches):
        yield batches


# Parameters of other checkpoints.


def open_sources(experiment: Experiment, stage: StageConfig, workdir: Path) -> dict[str, Checkpoint]:
    """Part → the checkpoint that it starts from (start_from), of an earlier stage in this work folder or of a folder.

    Raises UserError if there is none, or if the part was trained on other features or with another vocabulary.
    """
    names = [s.name for s in experiment.stages]
    earlier = names[: names.index(stage.name)]
    opened: dict[str, Checkpoint] = {}
    for part, source in stage.start_from:
        if source in earlier and not (workdir / source / FOLDER).is_dir():
            raise UserError(
                f"Stage {stage.name!r} starts from stage {source!r}, which has no checkpoint in {str(workdir)!r}; "
                f"train it first."
            )
        opened[source] = opened.get(source) or Checkpoint.open(workdir / source if source in earlier else source)
        check_source(opened[source], part, experiment, stage)
    return {part: opened[source] for part, source in stage.start_from}


def fresh_state(
    program: StageProgram, sources: Mapping[str, Checkpoint], folder: Path
) -> tuple[TrainState, dict[str, Base]]:
    """The state before the first step, and for each frozen part what checkpoints in `folder` record about its base.

    The parts in `sources` come from there, the others are initialised at random. Raises UserError for a part that the
    stage does not have or that has other shapes, and for a frozen part without a source.
    """
    abstract, stage = program.abstract, program.stage
    whole = merge(abstract.params, abstract.frozen)
    for part in sources:
        if part not in whole:
            raise UserError(
                f"stages.{stage.name}.start_from: there is no part {part!r}; this stage has {', '.join(whole)}."
            )
    for part in abstract.frozen:
        if part not in sources:
            raise UserError(
                f"stages.{stage.name}: {part!r} is frozen and would keep its random initial values; name the "
                f"checkpoint it comes from in stages.{stage.name}.start_from."
            )
    state = program.init()
    params, frozen, bases = dict(state.params), {}, {}
    frozen_paths = paths_of(abstract.frozen)
    for part, source in sources.items():
        values = {part: source.load_part(part, whole[part])}
        if part in abstract.params:
            trained = select(values, lambda path: path not in frozen_paths)
            params[part] = place(trained[part], abstract.params[part])
        if part in abstract.frozen:
            kept = select(values, lambda path: path in frozen_paths)
            frozen[part] = place(kept[part], abstract.frozen[part])
            bases[part] = base_of(source, kept, folder)
    ema = jax.tree.map(jnp.copy, params) if state.ema else {}
    return dataclasses.replace(state, params=params, ema=ema, frozen=frozen), bases


# Statistics.


def find_statistics(
    sources: Mapping[str, Checkpoint],
    speech: Feed | None,
    features: FeatureConfig,
    encoder_features: FeatureConfig | None = None,
) -> Statistics | None:
    """Log-mel statistics with which parts of the sources were trained, else those of the feed `speech`.

    features: of the target. encoder_features: of the encoder's input, if they differ. None if there is neither a
    source with statistics of these features nor speech, for a stage on text only.
    """
    target, own = source_statistics(sources, features, encoder_features or features)
    if speech is not None:
        target = target or _measure(speech, features)
        if encoder_features is not None:
            own = own or _measure(speech, encoder_features)
    if target is None or (own is None and encoder_features is not None):
        return None
    measured = target
    if own is not None and (encoder_features is not None or not np.array_equal(own.mean, measured.mean)):
        measured = dataclasses.replace(measured, encoder=own)
    if jax.process_count() > 1:  # the same rows on every process, which may round differently
        from jax.experimental import multihost_utils

        measured = multihost_utils.broadcast_one_to_all(measured)
    return jax.tree.map(np.asarray, measured)


def _measure(speech: Feed, features: FeatureConfig) -> Statistics:
    """Log-mel statistics of the first examples of a feed's mixture, in slices on one device."""
    convert = jax.jit(lambda samples, count: log_mel(samples, count, features))

    def log_mels() -> Iterator[np.ndarray]:
        batches: Any = speech.in_order(STATISTICS_ROWS)
        with contextlib.closing(batches):
            for batch in itertools.islice(batches, STATISTICS_EXAMPLES // STATISTICS_ROWS):
                seq = convert(*jax.device_put((batch.samples, batch.num_samples), jax.local_devices()[0]))
                values, lengths = np.asarray(seq.values), np.asarray(seq.lengths)
                yield from (values[row, :length] for row, length in enumerate(lengths))

    return measure(log_mels(), features)


# Checks.


def check_stage(stage: StageConfig, mesh: Any) -> None:
    """Raise UserError for batches that this mesh and the micro-batches do not divide."""
    if sharding.batch_shards(mesh) % jax.process_count():
        raise UserError(
            f"mesh: {jax.process_count()} processes would share rows, which only the axes replica, data and fsdp split "
            f"({sharding.batch_shards(mesh)} parts); keep tensor within a process."
        )
    parts = sharding.batch_shards(mesh) * stage.accumulate
    for stream in stage.streams:
        if stream.batch_size % parts:
            key = f"stages.{stage.name}.streams.{stream.key}.batch_size"
            raise UserError(
                f"{key} {stream.batch_size} must be a multiple of {parts} "
                f"(the mesh's {sharding.batch_shards(mesh)} batch shards x accumulate {stage.accumulate})."
            )


def check_buckets(data: DataConfig, features: FeatureConfig, stage: StageConfig, mesh: Any) -> None:
    """Raise UserError for buckets whose rows the mesh and the micro-batches do not divide."""
    parts = sharding.batch_shards(mesh) * stage.accumulate
    for stream in stage.streams if data.buckets else ():
        if any(shape.rows % parts for shape in bucket_shapes(data, features, stream.batch_size)):
            raise UserError(
                f"data.row_multiple {data.row_multiple} must be a multiple of {parts} for stage {stage.name!r} "
                f"(the mesh's {sharding.batch_shards(mesh)} batch shards x accumulate {stage.accumulate}), or some "
                f"buckets' rows do not divide."
            )


# A run may continue with other values of these: none of them changes what a step computes. What lies at the paths
# among them is compared by its content.
FREE = {
    *(
        "name",
        "mesh",
        "data.root",
        "data.packed",
        "data.vocabulary.path",
        "data.reader",
        "data.readers",
        "data.max_left_out",
        "features.dft",
        "model.remat",
    ),
    *("model.encoder.features.dft", "model.logits_chunk", "model.lm.attention"),
    *("stage.save_every", "stage.log_every", "stage.keep"),
    *("stage.evaluate_on", "stage.evaluate_every", "stage.evaluate_examples"),
}

ROOT = re.compile(r"data\.tasks\..*\.root")


def check_same(saved: Experiment, experiment: Experiment, stage: StageConfig, folder: Path) -> None:
    """Raise UserError naming the first key in which the experiment of a checkpoint differs from this one.

    Other stages, and tasks and mixtures that this stage does not read, may differ.
    """
    old, new = _relevant(saved, stage.name), _relevant(experiment, stage.name)
    absent = object()
    for key in [*new, *old]:
        deeper = any(other.startswith(f"{key}.") for other in (*new, *old))  # [] here, named elements there
        if not deeper and old.get(key, absent) != new.get(key, absent):
            shown = key.replace("stage.", f"stages.{stage.name}.", 1) if key.startswith("stage.") else key
            before, now = (repr(each[key]) if key in each else "no value" for each in (old, new))
            raise UserError(
                f"The checkpoint in {str(folder)!r} was trained with {shown} = {before}, this config has {now}; "
                f"set it back or give another --workdir."
            )


def check_same_data(saved: Checkpoint, experiment: Experiment, fingerprints: Mapping[str, str]) -> None:
    """Raise UserError if a task, or the vocabulary, holds something else than when a checkpoint was trained.

    fingerprints: of the feeds; see Feed.
    """
    for task, before in saved.meta.get("data", {}).items():
        if fingerprints.get(task, before) != before:
            raise UserError(
                f"The data of task {task!r} is not what the checkpoint in {str(saved.folder)!r} was trained with "
                f"(other records, or in another order); set its root to the same data, or give another --workdir."
            )
    old, new = (_pieces(each.data.vocabulary) for each in (saved.experiment, experiment))
    if old is not None and new is not None and old != new:
        raise UserError(
            f"data.vocabulary.path names another SentencePiece model than the checkpoint in {str(saved.folder)!r} was "
            f"trained with; name that one, or give another --workdir."
        )


def _pieces(vocabulary: VocabularyConfig) -> bytes | None:
    """The SentencePiece model of a vocabulary; None if it is of another kind, or not on this machine."""
    if not isinstance(vocabulary, SentencePieceConfig) or lacks_pieces(vocabulary.path):
        return None
    return read_pieces(vocabulary.path)


def _relevant(experiment: Experiment, stage_name: str) -> dict[str, Any]:
    """Dotted key → value of all settings that decide what the steps of a stage compute."""
    stage = next((s for s in experiment.stages if s.name == stage_name), None)
    read = {stream.mixture for stream in (stage.streams if stage else ())}
    mixtures = tuple(m for m in experiment.data.mixtures if m.name in read)
    read |= {task for mixture in mixtures for task, _ in mixture.rates}
    tasks = tuple(task for task in experiment.data.tasks if task.name in read)
    data = dataclasses.replace(experiment.data, mixtures=mixtures, tasks=tasks)
    settings = as_dict(dataclasses.replace(experiment, data=data, stages=()))
    flat = _flat(settings | {"stage": stage and as_dict(stage)})
    return {k: v for k, v in flat.items() if k not in FREE and not ROOT.fullmatch(k)}


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, list) and node and all(isinstance(child, dict) for child in node):
        labels = [_label(child, i) for i, child in enumerate(node)]
        node = {label if label not in labels[:i] else str(i): node[i] for i, label in enumerate(labels)}
    elif isinstance(node, list) and node and all(_is_named(child) for child in node):
        node = dict(node)
    if isinstance(node, dict):
        return {k: v for key, child in node.items() for k, v in _flat(child, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def _label(child: dict[str, Any], index: int) -> str:
    objective = child.get("objective")
    return str(child.get("name") or (objective.get("kind") if isinstance(objective, dict) else objective) or index)


def _is_named(child: Any) -> bool:
    return isinstance(child, list) and len(child) == 2 and isinstance(child[1], dict)
