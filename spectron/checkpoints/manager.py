"""Checkpoints: asynchronous saves, restores onto any mesh, and the sentences for what can go wrong.

A checkpoint folder DIR/STEP holds four items: params, ema, optimizer (its state and the step) and meta (JSON: the whole
experiment, the stage, the log-mel statistics). A folder that was not finished is never taken for a checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from spectron.checkpoints import export_format
from spectron.config import Experiment, as_dict, from_json
from spectron.types import Params, Statistics, TrainState, UserError
from spectron.utils.disk import ONE_VOICE, calm, disk_full
from spectron.utils.files import check_local

VERSION = 1  # of the layout above
FOLDER = "checkpoints"
ITEMS = ("params", "ema", "optimizer", "meta")
SWEEPS = 5  # ours: half a second is enough for writers that were under way when one of them failed


def steps_in(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending; [] if there is none."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit() and _finished(path))


def _finished(path: Path) -> bool:
    return (
        (path / "meta" / "metadata").is_file()
        and (path / "params").is_dir()
        and (path / "_CHECKPOINT_METADATA").is_file()
    )


class Checkpointer:
    """Saves the newest `keep` states of one stage in `directory`. One writer at a time."""

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        self.directory = Path(directory).absolute()
        calm()
        ONE_VOICE.failed = False
        with _explained(self.directory, None):
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
        """Start saving; returns when the values are copied off the devices. Raises UserError if this or an earlier save
        found the disk full; the checkpoints before it stay."""
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
        """Raise what went wrong in a save under way, if anything did."""
        with self._guard():
            self._manager.check_for_errors()

    def close(self) -> None:
        """Wait for the save under way and end."""
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

    def restore(self, abstract: TrainState) -> TrainState:
        """The newest state, laid out as the shardings of `abstract` say, whatever mesh wrote it.

        Raises UserError for a checkpoint that cannot be read or has other shapes.
        """
        step = self.latest()
        if step is None:
            raise UserError(f"There is no checkpoint in {str(self.directory)!r}; train first or give another folder.")
        path = self.directory / str(step)
        params = _restore(path, "params", abstract.params)
        optimizer = _restore(path, "optimizer", {"step": abstract.step, "state": abstract.opt_state})
        ema = _restore(path, "ema", abstract.ema) if abstract.ema else {}
        return TrainState(optimizer["step"], params, optimizer["state"], ema)

    def _remove_unfinished(self) -> None:
        for path in self.directory.iterdir():
            if path.is_dir() and not _finished(path) and (path.name.isdigit() or ".orbax-checkpoint-tmp" in path.name):
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with _explained(self.directory, self.latest()):
                yield
        except UserError:
            ONE_VOICE.failed = True
            with contextlib.suppress(Exception):
                self._manager.close()
            if jax.process_index() == 0:
                for _ in range(SWEEPS):  # half a checkpoint would keep the disk full, and its other writers still run
                    self._remove_unfinished()
                    time.sleep(0.1)
            raise


@contextlib.contextmanager
def _explained(directory: Path, last: int | None) -> Iterator[None]:
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


def _restore(path: Path, item: str, abstract: Any) -> Any:
    """One item with the shapes, types and shardings of `abstract`."""
    folder = path / item
    stored = _metadata(folder)
    _compare(stored, abstract, f"Checkpoint {str(path)!r}")
    with _readable(path), ocp.PyTreeCheckpointer() as reader:
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(abstract, restore_args=restore_args))


def _metadata(folder: Path) -> Any:
    with _readable(folder.parent):
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree


def _flat(tree: Any) -> dict[str, tuple[int, ...]]:
    """Path → shape; keys of dictionaries, names of tuples' fields and positions are all written as text."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_has_shape)
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {name: tuple(leaf.shape) for name, leaf in names.items() if _has_shape(leaf)}


def _has_shape(x: Any) -> bool:
    return hasattr(x, "shape")


def _compare(stored: Any, wanted: Any, what: str) -> None:
    have, want = _flat(stored), _flat(wanted)
    for key in [*want, *have]:
        if have.get(key) != want.get(key):
            raise UserError(
                f"{what} is of another model: {key!r} is {_shape(have.get(key))} there and {_shape(want.get(key))} "
                f"in this config; use the config it was trained with or another folder."
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a scalar"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    calm()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).split("\n", maxsplit=1)[0][:200]
        raise UserError(
            f"Checkpoint {str(path)!r} cannot be read, it may be half-written or half-copied ({reason}); "
            f"remove that folder to use the one before it, or copy it again."
        ) from error


def read_meta(path: str | Path) -> dict[str, Any]:
    """The meta JSON of one checkpoint folder (…/STEP), or what an export tells of it. Raises UserError."""
    path = Path(path)
    if export_format.is_bundle(path):
        return export_format.read_meta(path)
    with _readable(path):
        meta = json.loads((path / "meta" / "metadata").read_text(encoding="utf-8"))
        version = int(meta["version"])
    if version > VERSION:
        raise UserError(
            f"Checkpoint {str(path)!r} was made by a newer version of spectron (layout {version}; this one reads up to "
            f"{VERSION}); install a newer one."
        )
    return meta


def find(directory: str | Path) -> Path:
    """The checkpoint meant by a step's folder, a stage's, a work folder (its last stage, newest step) or an export's.

    Raises UserError when there is none.
    """
    check_local(directory, "checkpoint")
    directory = Path(directory).absolute()
    if export_format.is_bundle(directory) or (directory.name.isdigit() and _finished(directory)):
        return directory
    for folder in (directory / FOLDER, directory):
        if steps := steps_in(folder):
            return folder / str(steps[-1])
    stages = [(steps_in(path / FOLDER), path) for path in directory.iterdir()] if directory.is_dir() else []
    found = [path / FOLDER / str(steps[-1]) for steps, path in stages if steps]
    if found:
        return max(found, key=_stage_number)
    if not directory.exists():
        raise UserError(f"Checkpoint folder {str(directory)!r} does not exist.")
    raise UserError(
        f"There is no finished checkpoint in {str(directory)!r}; give a folder that `spectron train` wrote."
    )


def _stage_number(path: Path) -> int:
    meta = read_meta(path)
    names = [stage["name"] for stage in meta["experiment"]["stages"]]
    return names.index(meta["stage"]) if meta["stage"] in names else -1


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What decoding and evaluation need of a checkpoint."""

    params: Params  # numpy arrays, or jax arrays where shardings were given
    experiment: Experiment
    statistics: Statistics | None  # None when the stage saw no speech
    stage: str
    step: int
    average: bool = False  # whether the parameters are the moving average


def load_params(directory: str | Path, prefer_ema: bool = True, parts: Sequence[str] = ()) -> Loaded:
    """Parameters (the moving average if there is one) and config of a checkpoint; see `find` for what directory may be.

    parts: read only these top-level parts; () reads all. Raises UserError when there is none or it cannot be read.
    """
    path = find(directory)
    meta = read_meta(path)
    experiment = experiment_of(path, meta)
    exported = export_format.is_bundle(path)
    average = meta["average"] if exported else prefer_ema and has_average(path)
    if average and not prefer_ema:
        raise UserError(f"Export {str(path)!r} holds the moving average alone; give the checkpoint it was made from.")
    folder = path / ("ema" if average else "params")
    stored = dict.fromkeys(export_format.parts_of(path)) if exported else _metadata(folder)
    for part in parts:
        if part not in stored:
            raise UserError(f"Checkpoint {str(path)!r} has no part {part!r}; it has {', '.join(stored)}.")
    if exported:
        params = export_format.read_params(path, experiment.model.scan_layers, parts)
    else:
        params = _read(folder, {part: stored[part] for part in (parts or stored)})
    return Loaded(params, experiment, statistics_of(meta), meta["stage"], meta["step"], average)


def has_average(path: Path) -> bool:
    """Whether a checkpoint folder (…/STEP) holds a moving average. Raises UserError where it did and does no more: what
    reads the parameters in its place would be another model."""
    with _readable(path):
        items = json.loads((path / "_CHECKPOINT_METADATA").read_text(encoding="utf-8"))["item_handlers"]
        if "ema" in items and not (path / "ema").is_dir():
            raise FileNotFoundError("its folder ema is missing")
        return "ema" in items


def _read(folder: Path, wanted: Any) -> Params:
    """Numpy arrays."""
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted, is_leaf=_has_shape)
    with _readable(folder.parent), ocp.PyTreeCheckpointer() as reader:
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
        return reader.restore(folder, args=arguments)


def load_part(directory: str | Path, part: str, abstract: Params) -> Params:
    """One top-level part laid out as `abstract` (shapes and shardings) says, the moving average if there is one.

    Raises UserError naming the part and the key that has another shape.
    """
    loaded = load_params(directory, parts=(part,))
    _compare({part: loaded.params[part]}, {part: abstract}, f"Part {part!r} of checkpoint {str(find(directory))!r}")
    return jax.tree.map(lambda x, a: jax.device_put(x.astype(a.dtype), a.sharding), loaded.params[part], abstract)


def experiment_of(path: Path, meta: dict[str, Any]) -> Experiment:
    """The experiment in a checkpoint's meta. Raises UserError when another version wrote it."""
    try:
        return from_json(json.dumps(meta["experiment"]), Experiment)
    except UserError as error:
        raise UserError(f"Checkpoint {str(path)!r} was written by another version of spectron: {error}") from error


def statistics_of(meta: dict[str, Any]) -> Statistics | None:
    """The log-mel statistics in a checkpoint's meta, float32 [F] each; None if the stage saw no speech."""
    stored = meta.get("statistics")
    if stored is None:
        return None
    return _statistics(stored)


def _statistics(stored: dict[str, Any]) -> Statistics:
    own = stored.get("encoder")
    return Statistics(
        mean=np.asarray(stored["mean"], np.float32),
        std=np.asarray(stored["std"], np.float32),
        encoder=None if own is None else _statistics(own),
    )


def make_meta(experiment: Experiment, stage: str, statistics: Statistics | None) -> dict[str, Any]:
    """What `save` writes beside the arrays; exact, since JSON holds every float32."""
    values = None if statistics is None else _stored(statistics)
    return {"experiment": as_dict(experiment), "stage": stage, "statistics": values}


def _stored(statistics: Statistics) -> dict[str, Any]:
    """The inverse of _statistics."""
    values: dict[str, Any] = {
        name: np.asarray(getattr(statistics, name)).astype(float).tolist() for name in ("mean", "std")
    }
    return values if statistics.encoder is None else {**values, "encoder": _stored(statistics.encoder)}
