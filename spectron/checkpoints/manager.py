"""Saving training checkpoints: asynchronously, keeping the newest, and never leaving a half-written one behind.

A checkpoint is a folder WORKDIR/STAGE/checkpoints/STEP with four items: params (what the stage trains), ema (its moving
average, if one is kept), optimizer (state and step) and meta (JSON: the experiment, the stage, log-mel statistics,
and the base of every frozen part). Reading is in checkpoint.py.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spectron.checkpoints.steps import is_finished, steps_in
from spectron.config import Experiment, as_dict
from spectron.types import Statistics, TrainState, UserError
from spectron.utils.disk import DISK_LOGS, disk_full

VERSION = 2  # of the layout above
ITEMS = ("params", "ema", "optimizer", "meta")
SWEEPS = 5  # ours: after a failed save, half a second is enough for the other writers to end


def make_meta(experiment: Experiment, stage: str, statistics: Statistics | None) -> dict[str, Any]:
    """The JSON that belongs to a model: experiment, stage, statistics. Exact, since JSON holds every float32."""
    values = None if statistics is None else _statistics_json(statistics)
    return {"experiment": as_dict(experiment), "stage": stage, "statistics": values}


def _statistics_json(statistics: Statistics) -> dict[str, Any]:
    values: dict[str, Any] = {
        name: np.asarray(getattr(statistics, name)).astype(float).tolist() for name in ("mean", "std")
    }
    return values if statistics.encoder is None else {**values, "encoder": _statistics_json(statistics.encoder)}


class Checkpointer:
    """Saves the states of one stage in `directory` and keeps the newest `keep`. Only one writer at a time."""

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self.directory = Path(directory).absolute()
        DISK_LOGS.install()
        DISK_LOGS.failed = False
        with _explain_full_disk(self.directory, None):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            options = ocp.CheckpointManagerOptions(max_to_keep=max(keep, 1), cleanup_tmp_directories=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=ITEMS)
        self._open = True

    def latest(self) -> int | None:
        """The newest finished step."""
        steps = steps_in(self.directory)
        return steps[-1] if steps else None

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving; returns when the values are copied off the devices.

        state.frozen is not saved: meta["bases"] says where it is. Raises UserError if the disk is full, also when an
        earlier save found that; earlier checkpoints are kept.
        """
        items = {
            "params": ocp.args.PyTreeSave(state.params),
            "optimizer": ocp.args.PyTreeSave({"step": state.step, "state": state.opt_state}),
            "meta": ocp.args.JsonSave({"version": VERSION, "step": step, **meta}),
        }
        if state.ema:
            items["ema"] = ocp.args.PyTreeSave(state.ema)
        with self._guard():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def check(self) -> None:
        """Raise the error of a save in progress, if it has failed."""
        with self._guard():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the save in progress and end."""
        if not self._open:
            return
        self._open = False
        with self._guard():
            self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # A run that failed for another reason still finishes its save, and keeps its own message.
        with contextlib.suppress(*[] if kind is None else [Exception]):
            self.close()

    def _remove_unfinished(self) -> None:
        for path in self.directory.iterdir():
            temporary = path.name.isdigit() or ".orbax-checkpoint-tmp" in path.name
            if path.is_dir() and temporary and not is_finished(path):
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with _explain_full_disk(self.directory, self.latest()):
                yield
        except UserError:
            DISK_LOGS.failed = True
            with contextlib.suppress(Exception):
                self._manager.close()
            if jax.process_index() == 0:
                for _ in range(SWEEPS):  # half a checkpoint would keep the disk full, and other writers still run
                    self._remove_unfinished()
                    time.sleep(0.1)
            raise


@contextlib.contextmanager
def _explain_full_disk(directory: Path, last: int | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        kept = f"the checkpoint of step {last} is kept" if last is not None else "there is no earlier checkpoint"
        raise UserError(
            f"The disk is full: saving to {str(directory)!r} failed; {kept}; "
            f"free some space and run the same command again."
        ) from error
