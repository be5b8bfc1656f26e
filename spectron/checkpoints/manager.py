"""Saving training checkpoints: asynchronously, keeping the newest, and never leaving a half-written one behind.

A checkpoint is a folder WORKDIR/STAGE/checkpoints/STEP with four items: params (what the stage trains), ema (its moving
average, if one is kept), optimizer (state and step) and meta (JSON: the experiment, the stage, log-mel statistics,
and the base of every frozen part). Reading is in checkpoint.py, checksums are in integrity.py.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import logging
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spectron.checkpoints.integrity import write_checksums
from spectron.checkpoints.steps import is_finished, steps_in
from spectron.config import Experiment, SentencePieceConfig, as_dict
from spectron.data.vocabulary import lacks_pieces, read_pieces
from spectron.types import Statistics, TrainState, UserError
from spectron.utils.disk import DISK_LOGS, disk_full

log = logging.getLogger(__name__)

VERSION = 2  # of the layout above
NAMES = ("params", "ema", "optimizer", "meta")
TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of a folder that orbax is writing
POLL_SECONDS = 0.1  # ours: how often a save in progress is looked at
SWEEPS = 5  # ours: after a failed save, half a second is enough for the other writers to end


def make_meta(experiment: Experiment, stage: str, statistics: Statistics | None) -> dict[str, Any]:
    """The JSON that belongs to a model: experiment, stage, statistics, and the SentencePiece model of its vocabulary.

    Exact, since JSON holds every float32. A machine that trains on packed tokens may lack the SentencePiece model.
    """
    values = None if statistics is None else _statistics_json(statistics)
    meta = {"experiment": as_dict(experiment), "stage": stage, "statistics": values}
    vocabulary = experiment.data.vocabulary
    if isinstance(vocabulary, SentencePieceConfig) and not (vocabulary.size and lacks_pieces(vocabulary.path)):
        meta["pieces"] = base64.b64encode(read_pieces(vocabulary.path)).decode()
    return meta


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
            self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=NAMES)
        self._open = True
        self._sealer = concurrent.futures.ThreadPoolExecutor(1)
        self._sealing: concurrent.futures.Future = self._sealer.submit(lambda: None)
        self._waited = threading.Event()

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
            self._wait()  # the earlier checkpoint may be deleted from here on
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._waited = threading.Event()
        self._sealing = self._sealer.submit(_seal, self.directory / str(step), self._waited)

    def _wait(self) -> None:
        """Wait for the save in progress and its checksums."""
        try:
            self._manager.wait_until_finished()
        finally:
            self._waited.set()
        self._sealing.result()

    def close(self) -> None:
        """Wait for the save in progress and end."""
        if not self._open:
            return
        self._open = False
        with self._guard():
            self._wait()
        self._manager.close()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        # A run that failed for another reason still finishes its save, and keeps its own message.
        with contextlib.suppress(*[] if kind is None else [Exception]):
            self.close()

    def _remove_unfinished(self) -> None:
        """Delete what a killed save left. A checkpoint that has lost a file is kept, under another name."""
        for path in self.directory.iterdir():
            if path.is_dir() and TEMPORARY in path.name:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir() and path.name.isdigit() and not is_finished(path):
                kept = path.with_name(f"{path.name}.unfinished.{uuid.uuid4().hex[:8]}")
                with contextlib.suppress(OSError):
                    path.rename(kept)
                    log.warning("%s is incomplete; it is kept as %s, and training goes on without it.", path, kept.name)

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


def _seal(folder: Path, waited: threading.Event) -> None:
    """Write a checkpoint's checksums when it is finished. waited: set when its save has ended or failed."""
    while not is_finished(folder):
        if waited.wait(POLL_SECONDS) and not is_finished(folder):
            return
    write_checksums(folder, jax.process_index(), jax.process_count())


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
