"""`spectron export` and `spectron import`."""

from __future__ import annotations

import argparse
from typing import Any

from spectron.export.formats import FORMATS  # imports nothing heavy


def add_export(commands: Any) -> None:
    """Flags of `spectron export`."""
    export = commands.add_parser("export", help="a checkpoint for other programs: weights, config, tokenizer, README")
    export.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a work folder, a stage's, a step's, an export"
    )
    export.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    export.add_argument("--format", choices=list(FORMATS), default="safetensors", help="default safetensors")
    export.add_argument(
        "--quantise", choices=["int8"], help="large matrices with one byte per weight, scaled per output channel"
    )
    export.add_argument("--raw", action="store_true", help="the parameters, where the moving average would be taken")
    export.set_defaults(run=_export)


def add_import(commands: Any) -> None:
    """Flags of `spectron import`."""
    back = commands.add_parser("import", help="an export as a checkpoint that training stages can start from")
    back.add_argument("export", metavar="EXPORT", help="a folder that `spectron export` wrote")
    back.add_argument("--out", required=True, metavar="DIR", help="a new work folder")
    back.set_defaults(run=_import)


def _export(arguments: argparse.Namespace) -> int:
    from spectron.export.folder import export
    from spectron.utils.files import check_out

    check_out(arguments.out)
    done = export(
        arguments.checkpoint, arguments.out, arguments.format, arguments.quantise == "int8", raw=arguments.raw
    )
    size = f"{done.size / 1e6:,.2f} MB" + (f" ({done.full_size / 1e6:,.2f} in float32)" if arguments.quantise else "")
    print(f"{arguments.out}: {done.parameters:,} parameters in {done.tensors:,} tensors, {size}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from spectron.export.importing import import_export
    from spectron.utils.files import check_out

    check_out(arguments.out)
    import_export(arguments.export, arguments.out)
    print(f'{arguments.out}: a stage starts from it by --set stages.NAME.start_from=\'[["lm","{arguments.out}"], …]\'')
    return 0
