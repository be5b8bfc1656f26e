"""The command line: train, runs, compile, noisy-student, generate, evaluate, score, export, import, data.

Exit codes: 0 done, 2 user error (one sentence on stderr), 3 some inputs of several were bad and the others
are done (ours), 4 other processes of the job are gone (ours), 130 interrupted. Everything heavy is imported by the
command that needs it, so --help is instant.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import sys
from collections.abc import Sequence

from spectron.cli import data, evaluate, export, generate, runs, score, student, train
from spectron.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name, or a transcript, may hold what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    commands = parser()
    arguments, others = commands.parse_known_args(argv)
    if others and not hasattr(arguments, "pipeline_options"):
        commands.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.pipeline_options = others
    if arguments.computes:
        from spectron.utils import cpu

        cpu.prepare()
        from spectron.utils.compilation_cache import use_compilation_cache

        use_compilation_cache()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "jax", "orbax", "PIL", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        import_modules(arguments.modules)
        return arguments.run(arguments)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"spectron: {error.filename!r}: permission denied; ask its owner, or name another.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("spectron: interrupted.", file=sys.stderr)
        return 130


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register encoders, objectives and the like. Raises UserError for one that is not found."""
    if names:
        sys.path.insert(0, "")  # the current folder, as for `python -m`
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"--import {name}: there is no module {error.name!r}; run from its folder, or set PYTHONPATH."
            ) from error


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="spectron", description="A language model that listens and speaks.")
    top.set_defaults(computes=True)  # a command that needs no JAX sets it to False, and starts at once
    top.add_argument(
        "--import", dest="modules", action="append", default=[], metavar="MODULE",
        help="import a Python module first, one that registers an encoder, an objective or another kind of your own",
    )  # fmt: skip
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train.add_train(commands)
    runs.add_runs(commands)
    train.add_compile(commands)
    student.add_noisy_student(commands)
    generate.add_generate(commands)
    evaluate.add_evaluate(commands)
    score.add_score(commands)
    export.add_export(commands)
    export.add_import(commands)
    data.add_data(commands)
    return top
