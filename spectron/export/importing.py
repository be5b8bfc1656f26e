"""Importing: an export as a checkpoint that stages of training can start from."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp

from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import ORIGIN, is_export
from spectron.checkpoints.manager import Checkpointer, make_meta
from spectron.checkpoints.steps import FOLDER
from spectron.types import TrainState, UserError
from spectron.utils.files import check_new, new_folder


def import_export(export: str | Path, out: str | Path) -> Path:
    """Write an export's parameters as a checkpoint OUT/STAGE/checkpoints/STEP of a new work folder; returns OUT.

    The checkpoint has no optimizer state. Raises UserError; then OUT does not exist.
    """
    check_new(Path(out))
    source, target = Path(export).absolute(), Path(out).absolute()
    if not is_export(source):
        raise UserError(f"{str(source)!r} is not an export; give a folder that `spectron export` wrote.")
    checkpoint = Checkpoint.open(source)
    params = checkpoint.load()
    origin = {key: checkpoint.meta[key] for key in ORIGIN}
    meta = {**make_meta(checkpoint.experiment, checkpoint.stage, checkpoint.statistics), "imported": origin}
    state = TrainState(step=jnp.int32(checkpoint.step), params=params, opt_state={}, ema={})
    with new_folder(target) as folder, Checkpointer(folder / checkpoint.stage / FOLDER) as saver:
        saver.save(checkpoint.step, state, meta)
    return target
