"""Facts that name a checkpoint in results: where it is, and a checksum of what decides its answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from spectron.checkpoints.export_format import FACTS, WEIGHTS, is_bundle
from spectron.checkpoints.manager import find, has_average


def checkpoint_facts(directory: str | Path) -> dict[str, str]:
    """The path of a checkpoint or export, and a checksum of its weights and configuration.

    Part of every plan of cached work: another model may later be stored in the same place.
    """
    step = find(directory)
    return {"checkpoint": str(step), "weights": checksum_of(weights_of(step))}


def weights_of(step: Path) -> list[Path]:
    """The files and folders of a checkpoint or export that decide its answers; not the optimizer's."""
    if is_bundle(step):
        return [step / WEIGHTS, step / FACTS]
    return [step / ("ema" if has_average(step) else "params"), step / "meta" / "metadata"]


def checksum_of(paths: Iterable[Path]) -> str:
    """SHA-256 of the names and contents of files, and of all files in folders; hidden files are left out."""
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if file != path else file.name
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            with file.open("rb") as content:
                digest.update(f"{name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()
