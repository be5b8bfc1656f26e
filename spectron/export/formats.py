"""The formats an export can have. Each is the base (weights, facts, tokenizer, README) and what a writer adds to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectron.checkpoints.manager import Loaded

# write(folder, loaded): adds files to a folder that holds the base already, but for spectron.json and README.md, which
# come last and know the new files. `loaded` is what a reader of the folder gets: float32, int8 already applied. Returns
# what the README says of the new files, Markdown with a heading of level 2. May raise UserError.
Writer = Callable[[Path, "Loaded"], str]

# Name → the module whose `write` is its Writer, imported when asked for; "" adds nothing.
FORMATS = {
    "safetensors": "",
    "stablehlo": "spectron.export.stablehlo",
    "saved_model": "spectron.export.saved_model",
}


def writer(name: str) -> Writer | None:
    """The writer of a format, None for the base alone."""
    return importlib.import_module(FORMATS[name]).write if FORMATS[name] else None
