"""The formats of an export. Each consists of weights, facts, tokenizer and README, and the files that a writer adds."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectron.checkpoints.checkpoint import Checkpoint

# write(folder, checkpoint) adds files to a folder that holds weights and tokenizer already; spectron.json and README.md
# are written after it and list its files. Returns the README's section about the new files, Markdown with a heading of
# level 2. May raise UserError.
Writer = Callable[[Path, "Checkpoint"], str]

# Name → the module whose `write` is its Writer, imported when the format is asked for; "" adds nothing.
FORMATS = {
    "safetensors": "",
    "stablehlo": "spectron.export.stablehlo",
    "saved_model": "spectron.export.saved_model",
}


def writer(name: str) -> Writer | None:
    """The writer of a format, None for one that adds no files."""
    return importlib.import_module(FORMATS[name]).write if FORMATS[name] else None
