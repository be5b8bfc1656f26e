"""Results on disk: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from spectron.types import UserError


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises UserError when the place cannot be written."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises UserError when the place cannot be written."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = error.strerror or "the write failed"
        raise UserError(f"Cannot write {str(path)!r} ({reason}); check the folder and the free space.") from error
