"""Arrays that take long to compute, kept in a file until what they were computed from changes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from spectron.errors import UserError
from spectron.utils.files import read_sealed, write_sealed

log = logging.getLogger(__name__)

ALIGNMENT = 16  # bytes; a new bytes object starts at a multiple of it

Arrays = dict[str, np.ndarray]


def stored_arrays(places: Sequence[Path], key: str, compute: Callable[[], Mapping[str, np.ndarray]]) -> Arrays:
    """The arrays that `compute` gives, from the first of the files that holds them, else computed and written.

    places: files, the best one first; they are written in this order until one can be. key: whatever the arrays depend
    on (see `digest`); a file with another key is not used. Arrays from a file are read-only.
    """
    for path in places:
        content = read_sealed(path)
        arrays = None if content is None else _unpacked(content, key)
        if arrays is not None:
            return arrays
    computed = {name: np.ascontiguousarray(array) for name, array in compute().items()}
    content = _packed(computed, key)
    for path in places:
        try:
            write_sealed(path, content)
            break
        except UserError as error:
            log.debug("%s", error)  # a folder that others own: the next place
    return computed


def digest(parts: Iterable[object]) -> str:
    """SHA-256 of the JSON of every part."""
    total = hashlib.sha256()
    for part in parts:
        total.update(json.dumps(part).encode() + b"\n")
    return total.hexdigest()


def _packed(arrays: Arrays, key: str) -> bytes:
    header = {"key": key, "arrays": [[name, array.dtype.str, array.shape] for name, array in arrays.items()]}
    parts = [json.dumps(header).encode() + b"\n"]
    for array in arrays.values():
        parts.append(b"\0" * (-sum(map(len, parts)) % ALIGNMENT))
        parts.append(array.tobytes())
    return b"".join(parts)


def _unpacked(content: bytes, key: str) -> Arrays | None:
    """The arrays of a file without copying them; None for another key or format."""
    start = content.find(b"\n") + 1
    try:
        header = json.loads(content[:start])
        arrays = {}
        if header["key"] != key:
            return None
        for name, kind, shape in header["arrays"]:
            start += -start % ALIGNMENT
            size = int(np.prod(shape, dtype=np.int64))
            arrays[name] = np.frombuffer(content, kind, size, start).reshape(shape)
            start += arrays[name].nbytes
    except (ValueError, KeyError, TypeError):
        return None
    return arrays
