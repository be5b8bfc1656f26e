"""Opening a checkpoint or an export, once: which folder is meant, what it holds, and reading its parameters.

checkpoint = Checkpoint.open("runs/digits")
params = checkpoint.load()             # {part: nested dict of numpy arrays}
checkpoint.experiment, checkpoint.statistics, checkpoint.stage, checkpoint.step, checkpoint.facts
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectron.checkpoints import export_format
from spectron.checkpoints.integrity import check, damaged, readable
from spectron.checkpoints.manager import VERSION
from spectron.checkpoints.steps import FOLDER, ITEMS, META, is_finished, newest_step
from spectron.checkpoints.trees import compare, fingerprint, has_shape, merge, paths_of, select
from spectron.config import Experiment, SentencePieceConfig, from_json
from spectron.data.vocabulary import remember
from spectron.types import Params, Statistics, TrainState, UserError
from spectron.utils.files import check_local, checksum_of

Base = Mapping[str, str]  # where a frozen part is: {"folder", "fingerprint"}


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A finished checkpoint of training, or an export.

    folder: absolute, …/STAGE/checkpoints/STEP or the export's. exported: whether it is an export. meta: the JSON that
    was saved with it. statistics: None if the stage saw no speech.
    """

    folder: Path
    exported: bool
    meta: Mapping[str, Any] = dataclasses.field(repr=False)
    experiment: Experiment = dataclasses.field(repr=False)
    statistics: Statistics | None = dataclasses.field(repr=False)

    @classmethod
    def open(cls, folder: str | Path | Checkpoint) -> Checkpoint:
        """Open a step's folder, a stage's (its newest step), a work folder (its last stage) or an export.

        An open checkpoint is returned as it is. Raises UserError if there is none, if it cannot be read, or if another
        version of spectron wrote it.
        """
        if isinstance(folder, Checkpoint):
            return folder
        path = _resolve_checkpoint(folder)
        exported = export_format.is_export(path)
        meta = export_format.read_meta(path) if exported else _read_meta(path)
        try:
            experiment = from_json(json.dumps(meta["experiment"]), Experiment)
        except UserError as error:
            raise UserError(f"Checkpoint {str(path)!r} cannot be opened by this spectron: {error}") from error
        return cls(path, exported, meta, _with_own_pieces(experiment, meta), _statistics(meta["statistics"]))

    @property
    def stage(self) -> str:
        """The stage that was trained."""
        return str(self.meta["stage"])

    @property
    def step(self) -> int:
        """The step after which it was saved."""
        return int(self.meta["step"])

    @functools.cached_property
    def has_average(self) -> bool:
        """Whether it holds the moving average of the parameters (an export: in place of the parameters).

        Raises UserError if the average was saved and is missing now: the parameters alone would be another model.
        """
        if self.exported:
            return bool(self.meta["average"])
        with readable(self.folder, ITEMS):
            items = json.loads((self.folder / ITEMS).read_text(encoding="utf-8"))["item_handlers"]
        if "ema" in items and not (self.folder / "ema").is_dir():
            raise damaged(self.folder, "ema", "is missing")
        return "ema" in items

    @functools.cached_property
    def bases(self) -> dict[str, Base]:
        """Top-level part → the checkpoint that holds what of it this stage did not train."""
        return dict(self.meta.get("bases", {}))

    @functools.cached_property
    def parts(self) -> tuple[str, ...]:
        """The names of the top-level parts of the parameters."""
        own = export_format.parts_of(self.folder) if self.exported else _metadata(self.folder / "params")
        return tuple(sorted({*own, *self.bases}))

    @functools.cached_property
    def files(self) -> list[Path]:
        """The files and folders that decide what the model does; the optimizer's state is not among them."""
        if self.exported:
            return [self.folder / export_format.WEIGHTS, self.folder / export_format.FACTS]
        return [self.folder / ("ema" if self.has_average else "params"), self.folder / META]

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What a result records about the model that was evaluated: the folder, and a checksum of its files.

        Part of the key of every cached result, since another model may be written to the same folder later.
        """
        return {"checkpoint": str(self.folder), "weights": checksum_of(self.files)}

    def load(self, parts: Sequence[str] = (), prefer_ema: bool = True) -> Params:
        """Parameters as nested dicts of numpy arrays: the moving average if there is one and prefer_ema is true.

        parts: read only these top-level parts; () reads all. Frozen parts come from their base. Raises UserError if a
        part is unknown, a file cannot be read, or a base is missing or has changed.
        """
        for part in parts:
            if part not in self.parts:
                raise UserError(
                    f"Checkpoint {str(self.folder)!r} has no part {part!r}; it has {', '.join(self.parts)}."
                )
        if self.exported:
            if self.has_average and not prefer_ema:
                raise UserError(
                    f"Export {str(self.folder)!r} holds only the moving average; give the checkpoint it was made from."
                )
            return export_format.read_params(self.folder, self.experiment.model.scan_layers, parts)
        folder = self.folder / ("ema" if prefer_ema and self.has_average else "params")
        check(self.folder, (folder.name,))
        stored = _metadata(folder)
        params = _read(folder, {part: stored[part] for part in (parts or stored) if part in stored})
        for part in parts or self.bases:
            if part in self.bases:
                frozen = self._load_frozen(part, paths_of({part: stored.get(part, {})}))
                params[part] = merge(params.get(part, {}), frozen)
        return params

    def load_part(self, part: str, abstract: Params) -> Params:
        """One top-level part as numpy arrays; see `load`.

        Raises UserError naming the part and the first path whose shape is not that of `abstract`.
        """
        values = self.load((part,))[part]
        compare({part: values}, {part: abstract}, f"Part {part!r} of checkpoint {str(self.folder)!r}")
        return values

    def restore(self, abstract: TrainState) -> TrainState:
        """The whole state of training, laid out as the shardings of `abstract`, whatever mesh wrote it.

        Raises UserError for a checkpoint that cannot be read or has other shapes, a file that is damaged (each process
        checks its share of them), or a base that has changed.
        """
        check(self.folder, ("params", "optimizer", "ema"), jax.process_index(), jax.process_count())
        params = _restore(self.folder, "params", abstract.params)
        optimizer = _restore(self.folder, "optimizer", {"step": abstract.step, "state": abstract.opt_state})
        ema = _restore(self.folder, "ema", abstract.ema) if abstract.ema else {}
        frozen = {}
        for part, wanted in abstract.frozen.items():
            values = self._load_frozen(part, paths_of({part: abstract.params.get(part, {})}))
            compare({part: values}, {part: wanted}, f"Part {part!r} of {self.bases[part]['folder']!r}")
            frozen[part] = place(values, wanted)
        return TrainState(optimizer["step"], params, optimizer["state"], ema, frozen)

    def _load_frozen(self, part: str, trained: set[str]) -> Params:
        """The leaves of a part that were not trained, from the part's base. trained: the paths of the others."""
        base = self.bases[part]
        folder = (self.folder / base["folder"]).resolve()  # relative to this one if both are in one work folder
        try:
            values = Checkpoint.open(folder).load((part,))
        except UserError as error:
            raise UserError(
                f"Put {str(folder)!r} back: checkpoint {str(self.folder)!r} needs its part {part!r}, which it did not "
                f"train ({str(error).removesuffix('.')})."
            ) from error
        frozen = select(values, lambda path: path not in trained)
        if fingerprint(frozen) != base["fingerprint"]:
            raise UserError(
                f"The part {part!r} of {str(folder)!r} is not the one that checkpoint {str(self.folder)!r} was trained "
                f"with: its fingerprint differs; put the original back, or train again from a new --workdir."
            )
        return frozen.get(part, {})


def base_of(source: Checkpoint, frozen: Params, step_folder: Path) -> Base:
    """What a checkpoint records about the frozen leaves {part: …} that it took from `source`.

    step_folder: any …/STAGE/checkpoints/STEP of the new run. A base in the same work folder is named by a relative
    path, so that the work folder can be moved.
    """
    workdir = step_folder.parents[2]
    inside = source.folder.is_relative_to(workdir)
    folder = Path("../../..", source.folder.relative_to(workdir)) if inside else source.folder
    return {"folder": folder.as_posix(), "fingerprint": fingerprint(frozen)}


def place(values: Params, abstract: Params) -> Params:
    """Arrays of numpy on the devices, with the types and shardings of `abstract`.

    Each process copies its own shards: jax.device_put of a whole array takes five times its size in every process of a
    pod.
    """

    def one(x: np.ndarray, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(x.shape, like.sharding, lambda index: np.asarray(x[index], like.dtype))

    return jax.tree.map(one, values, abstract)


def _resolve_checkpoint(folder: str | Path) -> Path:
    """The folder of the checkpoint that is meant; see Checkpoint.open. Raises UserError if there is none."""
    check_local(folder, "checkpoint")
    folder = Path(folder).absolute()
    if export_format.is_export(folder) or is_finished(folder):
        return folder
    for parent in (folder / FOLDER, folder):
        if newest := newest_step(parent):
            return newest
    stages = [newest_step(path / FOLDER) for path in folder.iterdir()] if folder.is_dir() else []
    found = [step for step in stages if step is not None]
    if found:
        return _last_stage(found) if len(found) > 1 else found[0]
    if not folder.exists():
        raise UserError(f"Checkpoint folder {str(folder)!r} does not exist.")
    raise UserError(f"There is no finished checkpoint in {str(folder)!r}; give a folder that `spectron train` wrote.")


def _last_stage(steps: Sequence[Path]) -> Path:
    """Of the newest checkpoints of several stages that of the last stage. Raises UserError if two folders hold it."""
    places = {}
    for path in steps:
        meta = _read_meta(path)
        names = [stage["name"] for stage in meta["experiment"]["stages"]]
        places[path] = names.index(meta["stage"]) if meta["stage"] in names else -1
    last = sorted(path for path in steps if places[path] == max(places.values()))
    if len(last) > 1:
        stages = " and ".join(repr(str(path.parents[1])) for path in last)
        raise UserError(f"{stages} hold the same stage; give the one that you mean.")
    return last[0]


def _read_meta(path: Path) -> dict[str, Any]:
    """The meta JSON of a step's folder. Raises UserError, also for another version's."""
    with readable(path, META):
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        version = int(meta["version"])
    if version > VERSION:
        raise UserError(
            f"Checkpoint {str(path)!r} was written by a newer version of spectron (layout {version}; this version "
            f"reads layout {VERSION}); install a newer one."
        )
    if version < VERSION:
        raise UserError(
            f"Checkpoint {str(path)!r} was written by an earlier version of spectron (layout {version}; this version "
            f"reads layout {VERSION}) and must be trained again."
        )
    check(path, ("meta", ITEMS))  # after the version: another one may write other checksums
    return meta


def _with_own_pieces(experiment: Experiment, meta: Mapping[str, Any]) -> Experiment:
    """The experiment with the SentencePiece model that the checkpoint carries, if it does, in place of a path."""
    data = experiment.data
    if "pieces" not in meta or not isinstance(data.vocabulary, SentencePieceConfig):
        return experiment
    vocabulary = dataclasses.replace(data.vocabulary, path=remember(base64.b64decode(meta["pieces"])))
    return dataclasses.replace(experiment, data=dataclasses.replace(data, vocabulary=vocabulary))


def _statistics(stored: Mapping[str, Any] | None) -> Statistics | None:
    """The log-mel statistics in a meta JSON, float32 [F] each."""
    if stored is None:
        return None
    return Statistics(
        mean=np.asarray(stored["mean"], np.float32),
        std=np.asarray(stored["std"], np.float32),
        encoder=_statistics(stored.get("encoder")),
    )


def _restore(path: Path, item: str, abstract: Any) -> Any:
    """One item with the shapes, types and shardings of `abstract`."""
    import orbax.checkpoint as ocp

    folder = path / item
    compare(_metadata(folder), abstract, f"Checkpoint {str(path)!r}")
    with readable(path), ocp.PyTreeCheckpointer() as reader:
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(abstract, restore_args=restore_args))


def _read(folder: Path, wanted: Any) -> Params:
    """Part of an item as numpy arrays. wanted: a subtree of its metadata."""
    if not wanted:
        return {}
    import orbax.checkpoint as ocp

    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted, is_leaf=has_shape)
    with readable(folder.parent), ocp.PyTreeCheckpointer() as reader:
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
        return reader.restore(folder, args=arguments)


def _metadata(folder: Path) -> Any:
    """The tree of shapes and types of an item."""
    import orbax.checkpoint as ocp  # here: a second to import, and exports need none of it

    with readable(folder.parent):
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree
