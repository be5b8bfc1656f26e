"""The way back: an export as a checkpoint that stages can start from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax.numpy as jnp

from spectron.checkpoints.export_format import PIECES, is_bundle, read_facts
from spectron.checkpoints.manager import FOLDER, Checkpointer, load_params, make_meta
from spectron.config import SentencePieceConfig
from spectron.types import TrainState, UserError
from spectron.utils.files import check_new, new_folder


def import_export(export: str | Path, out: str | Path) -> Path:
    """Write an export's parameters as a checkpoint OUT/STAGE/checkpoints/STEP of a new work folder; returns OUT.

    It holds no optimizer state. Raises UserError; then nothing is left under the folder's name.
    """
    check_new(Path(out))
    source, target = Path(export).absolute(), Path(out).absolute()
    if not is_bundle(source):
        raise UserError(f"{str(source)!r} is no export; give a folder that `spectron export` wrote.")
    loaded, facts = load_params(source), read_facts(source)
    experiment, pieces = loaded.experiment, source / PIECES
    if isinstance(experiment.data.vocabulary, SentencePieceConfig):
        vocabulary = dataclasses.replace(experiment.data.vocabulary, path=str(target / PIECES))
        experiment = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, vocabulary=vocabulary))
    origin = {key: facts[key] for key in ("written_by", "average", "quantised")}
    meta = {**make_meta(experiment, loaded.stage, loaded.statistics), "imported": origin}
    with new_folder(target) as folder:
        with Checkpointer(folder / loaded.stage / FOLDER) as saver:
            saver.save(loaded.step, TrainState(jnp.int32(loaded.step), loaded.params, {}, {}), meta)
        if pieces.is_file():
            shutil.copyfile(pieces, folder / PIECES)
    return target
