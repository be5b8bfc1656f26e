"""Where checkpoints lie, and which of them are finished. It imports no JAX: `spectron runs` reads it."""

from __future__ import annotations

from pathlib import Path

FOLDER = "checkpoints"  # WORKDIR/STAGE/checkpoints/STEP
ITEMS = "_CHECKPOINT_METADATA"  # of a checkpoint: JSON, orbax's, which items it has
META = "meta/metadata"  # of a checkpoint: JSON, the experiment and the step


def steps_in(directory: str | Path) -> list[int]:
    """Steps of the finished checkpoints in a folder, ascending; [] if there is none."""
    directory = Path(directory)
    if not directory.is_dir():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if is_finished(path))


def is_finished(path: Path) -> bool:
    """Whether a folder is a checkpoint that was written to the end."""
    return path.name.isdigit() and (path / META).is_file() and (path / "params").is_dir() and (path / ITEMS).is_file()
