"""The README of an export: the model, the files, the names of parameters, and how to load them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from spectron.checkpoints.export_format import FACTS, PIECES, SCALE, TOKENIZER, WEIGHTS

WHAT = {
    FACTS: "versions, the whole config, stage, step, log-mel statistics, feature settings, shapes, checksums",
    WEIGHTS: "the parameters",
    TOKENIZER: "decodes ids without SentencePiece: a piece per id, special ids",
    PIECES: "the SentencePiece model, to encode text",
}
NUMBER = re.compile(r"(?<=layers\.)\d+")

NAMES = """## Names

A name is the parameter's path joined by `.`; `N` is a layer's number, whether training held its layers stacked or not.
A matrix `[in, out]` is multiplied from the right, `y = x @ kernel`.
"""
INT8 = """
`I8` tensors are quantised: the weight is `NAME.astype(float32) * NAME.scale`, a scale per output channel (of the
embedding: per token).
"""
LOADING = """## Loading

```python
from safetensors.numpy import load_file

tensors = load_file("THIS_FOLDER/weights.safetensors")    # {name: numpy array}

from spectron.inference.api import Spectron                     # the whole model, with spectron installed

generator = Spectron.from_checkpoint("THIS_FOLDER")
```

```bash
spectron generate --checkpoint THIS_FOLDER AUDIO --out OUT
spectron import THIS_FOLDER --out WORKDIR                 # a checkpoint again, for stages of `spectron train`
```

`tokenizer.json`: skip `pad` and `sos`, end at `eos`, join the UTF-8 bytes of the ids' `pieces` (a number is a raw byte)
with `join` between them; where `strip` is true cut one `space` at the start; where `space` is given, it means a space.
Log-mel values are normalised with `statistics` in `spectron.json`: (x - mean) / std.
"""


def readme(facts: Mapping[str, Any], section: str = "") -> str:
    """Markdown. section: about the files that the format adds."""
    experiment, by = facts["experiment"], facts["written_by"]
    values = "the moving average of its parameters" if facts["average"] else "parameters"
    head = (
        f"# {experiment['name']}, stage {facts['stage']}, step {facts['step']}\n\n"
        f"A [Spectron](https://arxiv.org/abs/2305.15255) model: {values}, exported by spectron {by['spectron']} (jax "
        f"{by['jax']}) as {facts['kind']}, folder format {facts['format']}.\n"
    )
    parts = [
        head,
        _files(facts["files"]),
        section,
        NAMES + (INT8 if facts["quantised"] else ""),
        _table(facts),
        LOADING,
    ]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _files(files: Mapping[str, Any]) -> str:
    rows = [(FACTS, ""), *((name, f"{file['bytes']:,}") for name, file in files.items())]
    lines = [f"| {name} | {size} | {WHAT.get(name, 'see below')} |" for name, size in rows]
    return "\n".join(["## Files\n", "| file | bytes | |", "|---|---|---|", *lines])


def _table(facts: Mapping[str, Any]) -> str:
    """A row for each name; the layers of a stack share one."""
    tensors = facts["tensors"]
    counts: dict[tuple[str, str, str], int] = {}
    for name, tensor in tensors.items():
        key = NUMBER.sub("N", name), " x ".join(map(str, tensor["shape"])), tensor["dtype"]
        counts[key] = counts.get(key, 0) + 1
    scales = {name + SCALE for name, tensor in tensors.items() if tensor["dtype"] == "I8"}
    count = sum(math.prod(tensor["shape"]) for name, tensor in tensors.items() if name not in scales)
    lines = [f"| {name} | {shape} | {dtype} | {many} |" for (name, shape, dtype), many in counts.items()]
    total = f"{count:,} parameters in {len(tensors) - len(scales):,} tensors."
    return "\n".join(["| name | shape | type | how many |", "|---|---|---|---|", *lines, "", total])
