"""Flags that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

FILES = "folder for results.json, results.md, items.jsonl and report.html; a restarted run resumes"
LM = "a Spectron checkpoint with a text LM, or the local folder of a causal LM of transformers"

if TYPE_CHECKING:
    from spectron.config import Experiment
    from spectron.evaluation.results import Results


def add_set(command: argparse.ArgumentParser) -> None:
    """Add --set KEY=VALUE, for load_config."""
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a setting: data.root=DIR"
    )


def add_recogniser(command: argparse.ArgumentParser, required: bool = True) -> None:
    """Add --recogniser DIR, for load_recogniser."""
    command.add_argument(
        "--recogniser",
        required=required,
        metavar="DIR",
        help="a checkpoint of a ctc stage, a generation's folder of noisy-student (with its tuned language model), or "
        "the local folder of a transformers model",
    )


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """Add --checkpoint DIR, the model to evaluate."""
    command.add_argument("--checkpoint", required=True, metavar="DIR", help="folder of a run, a stage or a step")


def add_out(command: argparse.ArgumentParser, files: str = FILES) -> None:
    """Add --out DIR, for the results."""
    command.add_argument("--out", required=True, metavar="DIR", help=files)


def add_decoding(command: argparse.ArgumentParser, seeds: int, what: str = "prompts") -> None:
    """Add --seeds and --batch-size, for decoding."""
    command.add_argument("--seeds", type=positive, default=seeds, metavar="N", help=f"decoding seeds (default {seeds})")
    add_batch_size(command, f"{what} decoded together")


def add_batch_size(command: argparse.ArgumentParser, what: str) -> None:
    """Add --batch-size N."""
    command.add_argument("--batch-size", type=positive, default=8, metavar="N", help=f"{what} (default 8)")


def add_limit(command: argparse.ArgumentParser, what: str) -> None:
    """Add --limit N, to evaluate fewer items."""
    command.add_argument("--limit", type=int, default=0, metavar="N", help=f"only N {what}, evenly spread")


def add_judges(command: argparse.ArgumentParser) -> None:
    """--asr, --lm, --speaker and --dnsmos: who judges what is said."""
    add_asr(command)
    command.add_argument("--lm", metavar="DIR", help=f"language model that scores transcripts: {LM}")
    command.add_argument("--speaker", choices=["resemblyzer"], help="model that compares voices")
    command.add_argument("--dnsmos", action="store_true", help="predict quality with DNSMOS (speechmos)")


def add_asr(command: argparse.ArgumentParser) -> None:
    """Add --asr DIR."""
    command.add_argument(
        "--asr",
        metavar="DIR",
        help="recogniser of generated speech: as --recogniser of evaluate recognition",
    )


def positive(text: str) -> int:
    """Parse a positive integer; a type for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def check_out_file(path: str, flag: str = "--out") -> None:
    """Raise UserError if a file cannot be written there. flag: the option that named it."""
    from spectron.errors import UserError
    from spectron.utils.files import check_out

    if not path or "\0" in path or os.path.isdir(path):  # which is False, not an error, for a name that is too long
        raise UserError(f"{flag} {path!r} is not the name of a file; give one.")
    check_out(Path(path).parent, flag)
    if len(os.fsencode(Path(path).name)) > 200:  # of 255, for the name of a temporary file beside it
        raise UserError(f"{flag} {path[:200]!r}… is too long a name for a file; give a shorter one.")


def print_results(results: Results, out: str) -> int:
    """Print a suite's tables and where its report is; the exit code."""
    from spectron.evaluation.results import markdown

    print(markdown(results))
    print(f"Report: {Path(out) / 'report.html'}")
    return 0


def load_config(arguments: argparse.Namespace, path: str) -> Experiment:
    """Load the experiment of a config file with the overrides of --set."""
    from spectron.config import load_experiment

    return load_experiment(path, arguments.set)
