"""What several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

FILES = "results.json, results.md, items.jsonl and report.html; a killed run goes on there"
LM = "a checkpoint of ours with a text LM, or the local folder of a causal LM of transformers"

if TYPE_CHECKING:
    from spectron.config import Experiment


def add_set(command: argparse.ArgumentParser) -> None:
    """--set KEY=VALUE, for load_config."""
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override a setting: data.root=DIR"
    )


def add_recogniser(command: argparse.ArgumentParser) -> None:
    """--recogniser DIR, for spectron.recognition.recogniser."""
    command.add_argument(
        "--recogniser",
        required=True,
        metavar="DIR",
        help="a checkpoint of a ctc stage, a generation of noisy-student (with its tuned language model), or the local "
        "folder of a transformers model",
    )


def add_checkpoint(command: argparse.ArgumentParser) -> None:
    """--checkpoint DIR, of the model that is measured."""
    command.add_argument("--checkpoint", required=True, metavar="DIR", help="a work folder, a stage's or a step's")


def add_out(command: argparse.ArgumentParser, files: str = FILES) -> None:
    """--out DIR, for the results."""
    command.add_argument("--out", required=True, metavar="DIR", help=files)


def add_decoding(command: argparse.ArgumentParser, seeds: int, what: str = "prompts") -> None:
    """--seeds and --batch-size, of a model that answers."""
    command.add_argument("--seeds", type=positive, default=seeds, metavar="N", help=f"decoding seeds (default {seeds})")
    add_batch_size(command, f"{what} decoded together")


def add_batch_size(command: argparse.ArgumentParser, what: str) -> None:
    """--batch-size N."""
    command.add_argument("--batch-size", type=positive, default=8, metavar="N", help=f"{what} (default 8)")


def add_limit(command: argparse.ArgumentParser, what: str) -> None:
    """--limit N, for a quick look."""
    command.add_argument("--limit", type=int, default=0, metavar="N", help=f"only N {what}, evenly spread")


def add_panel(command: argparse.ArgumentParser) -> None:
    """--asr, --lm, --speaker and --dnsmos: who judges what is said."""
    add_asr(command)
    command.add_argument("--lm", metavar="DIR", help=f"who reads: {LM}")
    command.add_argument("--speaker", choices=["resemblyzer"], help="who knows voices")
    command.add_argument("--dnsmos", action="store_true", help="who rates quality: DNSMOS (speechmos)")


def add_asr(command: argparse.ArgumentParser) -> None:
    """--asr DIR."""
    command.add_argument("--asr", metavar="DIR", help="who hears: as --recogniser of `spectron evaluate recognition`")


def positive(text: str) -> int:
    """The type of a flag that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def load_config(arguments: argparse.Namespace, path: str) -> Experiment:
    """The experiment of a config file with the command line's settings."""
    from spectron.config import load_experiment

    return load_experiment(path, arguments.set)
