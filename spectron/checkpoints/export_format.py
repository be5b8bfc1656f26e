"""The folder of an exported model: names of its parameters, the facts in spectron.json, and reading both.

spectron.json is written last: a folder without it is not an export. A parameter's name is its path joined by "."; the
layers of a stack are separate, lm.layers.3.attention.query.kernel, whether training stacked them or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spectron.types import Int8, Params, UserError

VERSION = 2  # of the folder's layout
FACTS, WEIGHTS, TOKENIZER, PIECES = "spectron.json", "weights.safetensors", "tokenizer.json", "tokenizer.model"
SCALE = ".scale"  # added to the name of an int8 tensor: the name of its scales
ORIGIN = ("written_by", "average", "quantised")  # facts that a checkpoint imported from the export keeps
LAYER = re.compile(r"layers_(\d+)")
Tensors = dict[str, Any]  # name → numpy array or Int8


def is_export(folder: str | Path) -> bool:
    """Whether a folder is a finished export."""
    return (Path(folder) / FACTS).is_file()


def flatten(params: Params) -> Tensors:
    """A parameter tree → numpy arrays by name. Stacked and separate layers give the same names."""
    tensors: Tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        stacked = next((i for i, pair in enumerate(itertools.pairwise(keys)) if pair == ("layers", "block")), None)
        if stacked is None:
            split = [["layers", match[1]] if (match := LAYER.fullmatch(key)) else [key] for key in keys]
            tensors[".".join(key for pair in split for key in pair)] = np.asarray(leaf)
            continue
        for number, layer in enumerate(np.asarray(leaf)):
            tensors[".".join([*keys[: stacked + 1], str(number), *keys[stacked + 2 :]])] = layer
    return tensors


def unflatten(tensors: Mapping[str, Any], scan_layers: bool) -> Params:
    """The inverse of flatten. scan_layers: whether layers are stacked. Raises KeyError if a layer is missing."""
    tree: dict[str, Any] = {}
    stacks: dict[tuple[str, ...], dict[int, Any]] = {}
    for name, leaf in tensors.items():
        keys = name.split(".")
        pairs = enumerate(itertools.pairwise(keys))
        at = next((i for i, (key, number) in pairs if key == "layers" and number.isdigit()), None)
        if at is None:
            _put(tree, keys, leaf)
        elif scan_layers:
            stack = stacks.setdefault((*keys[: at + 1], "block", *keys[at + 2 :]), {})
            stack[int(keys[at + 1])] = leaf
        else:
            _put(tree, [*keys[:at], f"layers_{keys[at + 1]}", *keys[at + 2 :]], leaf)
    for path, layers in stacks.items():
        _put(tree, path, jax.tree.map(lambda *each: np.stack(each), *(layers[i] for i in range(len(layers)))))
    return tree


def _put(tree: dict[str, Any], keys: Sequence[str], leaf: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = leaf


def with_scales(stored: Mapping[str, Any]) -> Tensors:
    """Tensors as stored in a file → each int8 tensor and its scales as one Int8."""
    scales = {name + SCALE for name, x in stored.items() if x.dtype == np.int8}
    return {n: Int8(x, stored[n + SCALE]) if n + SCALE in scales else x for n, x in stored.items() if n not in scales}


def dequantised(tensors: Mapping[str, Any]) -> Tensors:
    """The same tensors with int8 ones converted to float32."""
    return {name: x.dequantise() if isinstance(x, Int8) else x for name, x in tensors.items()}


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_facts(folder: Path) -> dict[str, Any]:
    """The content of spectron.json. Raises UserError when it cannot be read or another version wrote it."""
    with _explain_damage(folder):
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        version, writer = int(facts["format"]), facts["written_by"]["spectron"]
    if version > VERSION:
        raise UserError(
            f"Export {str(folder)!r} has format {version}, written by the newer spectron {writer}; this version reads "
            f"format {VERSION}: install a newer one."
        )
    if version < VERSION:
        raise UserError(
            f"Export {str(folder)!r} has format {version}, written by the earlier spectron {writer}; this version "
            f"reads format {VERSION}: export the model again."
        )
    return facts


def read_meta(folder: Path) -> dict[str, Any]:
    """The facts that a training checkpoint's meta holds too: experiment, stage, step, statistics. Raises UserError."""
    facts = read_facts(folder)
    with _explain_damage(folder):
        meta = {key: facts[key] for key in ("experiment", "stage", "step", "statistics", *ORIGIN)}
        if (folder / PIECES).is_file():  # the export's own copy: the original may be on another machine
            meta["experiment"]["data"]["vocabulary"]["path"] = str(folder / PIECES)
    return meta


def read_tensors(folder: Path, parts: Sequence[str] = ()) -> Tensors:
    """Parameters by name, int8 ones as Int8. parts: only these top-level parts. Raises UserError if a byte is wrong."""
    facts = read_facts(folder)
    with _explain_damage(folder):
        _check_names(folder, facts["tensors"], facts["files"][WEIGHTS])
        for name in (WEIGHTS, TOKENIZER, PIECES):
            if name in facts["files"] and checksum(folder / name) != facts["files"][name]["sha256"]:
                raise _damaged(folder, f"the checksum of {name} is not the one in {FACTS}")
        from safetensors import safe_open

        with safe_open(folder / WEIGHTS, framework="np") as file:
            wanted = [name for name in facts["tensors"] if not parts or name.split(".")[0] in parts]
            read = {name: file.get_tensor(name) for name in wanted}
        return with_scales(read)


def read_params(folder: Path, scan_layers: bool, parts: Sequence[str] = ()) -> Params:
    """The parameter tree, int8 weights converted to float32. Raises UserError."""
    tensors = dequantised(read_tensors(folder, parts))
    with _explain_damage(folder):
        return unflatten(tensors, scan_layers)


def parts_of(folder: Path) -> list[str]:
    """The top-level parts an export holds. Raises UserError."""
    facts = read_facts(folder)
    with _explain_damage(folder):
        return sorted({name.split(".")[0] for name in facts["tensors"]})


def _check_names(folder: Path, expected: Mapping[str, Any], file: Mapping[str, Any]) -> None:
    """Raise UserError naming the first tensor that differs from spectron.json. Reads only the header of the weights."""
    from safetensors import SafetensorError, safe_open

    found = {}
    try:
        with safe_open(folder / WEIGHTS, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                part = weights.get_slice(name)
                found[name] = {"dtype": part.get_dtype(), "shape": list(part.get_shape())}
    except SafetensorError as error:
        size = (folder / WEIGHTS).stat().st_size
        lengths = f"{size:,} bytes where {file['bytes']:,} were written"
        raise _damaged(folder, f"{WEIGHTS} is not a complete safetensors file, it has {lengths}") from error
    for name in [*expected, *found]:
        if name not in found:
            raise _damaged(folder, f"tensor {name!r} is missing in {WEIGHTS}")
        if name not in expected:
            raise _damaged(folder, f"{WEIGHTS} holds a tensor {name!r} that {FACTS} does not list")
        if found[name] != expected[name]:
            stored, listed = (f"{x['dtype']} {x['shape']}" for x in (found[name], expected[name]))
            raise _damaged(folder, f"tensor {name!r} is {stored} in {WEIGHTS} and {listed} in {FACTS}")


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(f"Export {str(folder)!r} is damaged: {what}; copy it again or export it again.")


@contextlib.contextmanager
def _explain_damage(folder: Path) -> Iterator[None]:
    """Turn errors of reading into a UserError."""
    try:
        yield
    except FileNotFoundError as error:
        raise _damaged(folder, f"{Path(error.filename or WEIGHTS).name} is missing") from error
    except ImportError as error:
        raise UserError("Exports need the package 'safetensors'; pip install safetensors.") from error
    except OSError as error:
        raise UserError(
            f"Export {str(folder)!r} cannot be read: {Path(error.filename or folder).name}: {error.strerror or error}."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).split("\n", maxsplit=1)[0][:200]
        raise _damaged(folder, f"it cannot be read ({type(error).__name__}: {reason})") from error
