"""Writing an export: parameters, tokenizer and facts in a folder that appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import spectron
from spectron.checkpoints import export_format
from spectron.checkpoints.export_format import FACTS, PIECES, SCALE, TOKENIZER, WEIGHTS
from spectron.checkpoints.manager import Loaded, load_params, make_meta
from spectron.config import Experiment, FeatureConfig, SentencePieceConfig
from spectron.data.vocabulary import make_vocabulary
from spectron.export.formats import writer
from spectron.export.quantise import quantised
from spectron.export.readme import readme
from spectron.types import Int8
from spectron.utils.files import check_new, new_folder

README = "README.md"
NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "int8": "I8"}


class Exported(NamedTuple):
    """What was written: where, how many tensors and parameters, and bytes of weights (and in float32)."""

    folder: Path
    tensors: int
    parameters: int
    size: int
    full_size: int


def export(
    checkpoint: str | Path, out: str | Path, kind: str = "safetensors", int8: bool = False, raw: bool = False
) -> Exported:
    """Write a checkpoint, or an export again, to a new folder.

    kind: one of FORMATS. int8: weights in a byte, see spectron.export.quantise. raw: the parameters themselves, where
    the moving average would be taken. Raises UserError; then nothing is left under the folder's name.
    """
    check_new(Path(out))
    target = Path(out).absolute()
    loaded = load_params(checkpoint, prefer_ema=not raw)
    tensors = export_format.flatten(loaded.params)
    size = sum(x.nbytes for x in tensors.values())
    add = writer(kind)
    if int8:
        tensors = quantised(tensors)
    if int8 and add:
        params = export_format.unflatten(export_format.dequantised(tensors), loaded.experiment.model.scan_layers)
        loaded = dataclasses.replace(loaded, params=params)
    stored = as_stored(tensors)
    with new_folder(target) as folder:
        _write_tokenizer(folder, loaded.experiment)
        _write_weights(folder / WEIGHTS, stored)
        (folder / WEIGHTS).chmod((folder / TOKENIZER).stat().st_mode)  # safetensors makes it the owner's alone
        section = add(folder, loaded) if add else ""
        facts = make_facts(folder, loaded, stored, kind, int8)
        (folder / README).write_text(readme(facts, section), encoding="utf-8")
        _write_json(folder / FACTS, facts)
        written = (folder / WEIGHTS).stat().st_size
    count = sum(x.size for name, x in stored.items() if not _is_scale(name, stored))
    return Exported(target, len(stored), count, written, size)


def as_stored(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Int8 as the two tensors NAME and NAME.scale, in the order of names."""
    stored = {}
    for name, x in tensors.items():
        stored[name] = x.values if isinstance(x, Int8) else x
        if isinstance(x, Int8):
            stored[name + SCALE] = x.scale
    return {name: np.ascontiguousarray(stored[name]) for name in sorted(stored)}


def _is_scale(name: str, stored: Mapping[str, np.ndarray]) -> bool:
    of = name.removesuffix(SCALE)
    return of != name and of in stored


def make_facts(folder: Path, loaded: Loaded, stored: Mapping[str, np.ndarray], kind: str, int8: bool) -> dict[str, Any]:
    """What spectron.json says of a folder that holds everything else; the same export gives the same bytes."""
    experiment = loaded.experiment
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        "format": export_format.VERSION,
        "written_by": {"spectron": spectron.__version__, "jax": jax.__version__},
        "kind": kind,
        **make_meta(experiment, loaded.stage, loaded.statistics),
        "step": loaded.step,
        "average": loaded.average,
        "quantised": "int8" if int8 else None,
        "features": feature_facts(experiment.features),
        "tensors": {n: {"dtype": NAMES[x.dtype.name], "shape": list(x.shape)} for n, x in stored.items()},
        "files": {
            n: {"bytes": (folder / n).stat().st_size, "sha256": export_format.checksum(folder / n)} for n in names
        },
    }


def feature_facts(features: FeatureConfig) -> dict[str, Any]:
    """The feature settings with the sizes in samples that follow from them."""
    derived = {name: getattr(features, name) for name in ("window", "hop", "fft_size")}
    return {**dataclasses.asdict(features), **derived}


def _write_weights(path: Path, stored: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(stored), path, metadata={"spectron": spectron.__version__})


def _write_tokenizer(folder: Path, experiment: Experiment) -> None:
    config = experiment.data.vocabulary
    _write_json(folder / TOKENIZER, {"kind": config.kind, **make_vocabulary(config).table()})
    if isinstance(config, SentencePieceConfig):
        shutil.copyfile(config.path, folder / PIECES)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
