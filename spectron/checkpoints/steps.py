"""Where checkpoints lie, and which of them are finished. It imports no JAX: `spectron runs` reads it."""

from __future__ import annotations

import logging
from pathlib import Path

FOLDER = "checkpoints"  # WORKDIR/STAGE/checkpoints/STEP
ITEMS = "_CHECKPOINT_METADATA"  # of a checkpoint: JSON, orbax's, which items it has
META = "meta/metadata"  # of a checkpoint: JSON, the experiment and the step

log = logging.getLogger(__name__)


def steps_in(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending; [] if there is none."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if is_finished(path))


def newest_step(directory: Path) -> Path | None:
    """The newest finished checkpoint in a folder, None if there is none. Says so if a newer one lacks a part."""
    steps = steps_in(directory)
    if not steps:
        return None
    newer = [path for path in directory.iterdir() if path.name.isdigit() and int(path.name) > steps[-1]]
    for path in sorted(newer):
        missing = [part for part in (META, "params", ITEMS) if not (path / part).exists()]
        log.warning("%s is incomplete (it has no %s); step %d is used.", path, " and no ".join(missing), steps[-1])
    return directory / str(steps[-1])


def is_finished(path: Path) -> bool:
    """Whether a folder is a checkpoint that was written to the end."""
    return path.name.isdigit() and (path / META).is_file() and (path / "params").is_dir() and (path / ITEMS).is_file()
