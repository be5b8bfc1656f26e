"""Writing an export atomically: parameters, tokenizer and facts in a new folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import spectron
from spectron.checkpoints import export_format
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.checkpoints.export_format import FACTS, PIECES, SCALE, TOKENIZER, WEIGHTS
from spectron.checkpoints.manager import make_meta
from spectron.config import FeatureConfig, SentencePieceConfig, VocabularyConfig
from spectron.data.vocabulary import make_vocabulary, read_pieces
from spectron.export.formats import writer
from spectron.export.quantise import quantised
from spectron.export.readme import readme
from spectron.types import Int8
from spectron.utils.files import check_new, new_folder

README = "README.md"
NAMES = {"float32": "F32", "float64": "F64", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "int8": "I8"}


class Exported(NamedTuple):
    """What was written: folder, numbers of tensors and parameters, bytes of the weights as stored and in float32."""

    folder: Path
    tensors: int
    parameters: int
    size: int
    full_size: int


def export(
    source: str | Path | Checkpoint, out: str | Path, kind: str = "safetensors", int8: bool = False, raw: bool = False
) -> Exported:
    """Write a checkpoint, or an export again, to a new folder. Frozen parts are written too.

    kind: one of FORMATS. int8: quantise the weights, see spectron.export.quantise. raw: the parameters themselves, not
    their moving average. Raises UserError; then the folder does not exist.
    """
    check_new(Path(out))
    target = Path(out).absolute()
    checkpoint = Checkpoint.open(source)
    tensors = export_format.flatten(checkpoint.load(prefer_ema=not raw))
    size = sum(x.nbytes for x in tensors.values())
    add = writer(kind)
    if int8:
        tensors = quantised(tensors)
    stored = as_stored(tensors)
    with new_folder(target) as folder:
        _write_tokenizer(folder, checkpoint.experiment.data.vocabulary)
        _write_weights(folder / WEIGHTS, stored)
        (folder / WEIGHTS).chmod((folder / TOKENIZER).stat().st_mode)  # safetensors makes it readable by its owner only
        section = add(folder, checkpoint) if add else ""
        average = not raw and checkpoint.has_average
        facts = make_facts(folder, checkpoint, stored, kind=kind, average=average, int8=int8)
        (folder / README).write_text(readme(facts, section), encoding="utf-8")
        _write_json(folder / FACTS, facts)
        written = (folder / WEIGHTS).stat().st_size
    count = sum(x.size for name, x in stored.items() if not _is_scale(name, stored))
    return Exported(target, len(stored), count, written, size)


def as_stored(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Tensors sorted by name; an Int8 becomes the two tensors NAME and NAME.scale."""
    stored = {}
    for name, x in tensors.items():
        stored[name] = x.values if isinstance(x, Int8) else x
        if isinstance(x, Int8):
            stored[name + SCALE] = x.scale
    return {name: np.ascontiguousarray(stored[name]) for name in sorted(stored)}


def _is_scale(name: str, stored: Mapping[str, np.ndarray]) -> bool:
    of = name.removesuffix(SCALE)
    return of != name and of in stored


def make_facts(
    folder: Path,
    checkpoint: Checkpoint,
    stored: Mapping[str, np.ndarray],
    *,
    kind: str,
    average: bool,
    int8: bool,
) -> dict[str, Any]:
    """The content of spectron.json for a folder whose other files are written; deterministic."""
    experiment = checkpoint.experiment
    meta = make_meta(experiment, checkpoint.stage, checkpoint.statistics)
    meta.pop("pieces", None)  # a file of the folder holds them
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        "format": export_format.VERSION,
        "written_by": {"spectron": spectron.__version__, "jax": jax.__version__},
        "kind": kind,
        **meta,
        "step": checkpoint.step,
        "average": average,
        "quantised": "int8" if int8 else None,
        "features": feature_facts(experiment.features),
        "tensors": {n: {"dtype": NAMES[x.dtype.name], "shape": list(x.shape)} for n, x in stored.items()},
        "files": {
            n: {"bytes": (folder / n).stat().st_size, "sha256": export_format.checksum(folder / n)} for n in names
        },
    }


def feature_facts(features: FeatureConfig) -> dict[str, Any]:
    """The feature settings, and the sizes in samples derived from them."""
    derived = {name: getattr(features, name) for name in ("window", "hop", "fft_size")}
    return {**dataclasses.asdict(features), **derived}


def _write_weights(path: Path, stored: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(dict(stored), path, metadata={"spectron": spectron.__version__})


def _write_tokenizer(folder: Path, config: VocabularyConfig) -> None:
    _write_json(folder / TOKENIZER, {"kind": config.kind, **make_vocabulary(config).table()})
    if isinstance(config, SentencePieceConfig):
        (folder / PIECES).write_bytes(read_pieces(config.path))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
