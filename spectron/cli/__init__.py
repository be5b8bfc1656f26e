"""The command line: train, runs, compile, noisy-student, generate, evaluate, score, export, import, data.

Exit codes: 0 done, 2 user error (one sentence on stderr), 3 some inputs of several were bad and the others
are done (ours), 4 other processes of the job are gone (ours), 130 interrupted,
141 nobody reads the output any more. Everything heavy is imported by the
command that needs it, so --help is instant.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from spectron.cli import data, evaluate, export, generate, runs, score, student, train
from spectron.errors import UserError
from spectron.utils import streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    streams.open_standard()
    commands = parser()
    arguments, others = commands.parse_known_args(argv)
    if others and not hasattr(arguments, "pipeline_options"):
        commands.error(f"unrecognized arguments: {' '.join(others)}")
    arguments.pipeline_options = others
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("absl", "jax", "orbax", "PIL", "numba"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if arguments.computes:
            prepare_computing()
        import_modules(arguments.modules)
        code = arguments.run(arguments)
        sys.stdout.flush()  # here, where an error can still be told
        return code
    except UserError as error:
        return tell(str(error))
    except BrokenPipeError:  # `| head` has read enough
        streams.drop_stdout()
        return streams.SIGPIPE
    except PermissionError as error:
        return tell(f"{error.filename!r}: permission denied; ask its owner, or name another.")
    except KeyboardInterrupt:
        tell("interrupted.")
        return 130
    except Exception as error:
        if isinstance(error, OSError) and streams.stdout_is_full(error):
            streams.drop_stdout()
            return tell(
                f"What the command prints cannot be written ({error.strerror}); free some space and run it again."
            )
        from spectron.parallel.devices import no_device

        if (device := no_device()) is None:
            raise
        return tell(str(device))


def tell(sentence: str) -> int:
    """Print an error that the user can correct; returns its exit code."""
    print(f"spectron: {sentence}", file=sys.stderr)
    return 2


def prepare_computing() -> None:
    """What must be set before jax is imported, and jax's compilation cache."""
    from spectron.utils import cpu

    if os.environ.get("JAX_ENABLE_X64", "0").lower() in ("1", "true", "yes", "on"):
        # Checkpoints, exports and compiled programs are of 32-bit numbers.
        print("JAX_ENABLE_X64 is ignored: spectron computes with 32-bit numbers.", file=sys.stderr)
        os.environ["JAX_ENABLE_X64"] = "0"
    cpu.prepare()
    from spectron.utils.compilation_cache import use_compilation_cache
    from spectron.utils.programs import keep_programs

    use_compilation_cache()
    keep_programs()


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
