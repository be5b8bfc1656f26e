"""`spectron data pack | list | inspect`, and the commands of corpus.py."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from spectron.cli.corpus import add_corpus
from spectron.cli.flags import add_set, load_config, positive


def add_data(commands: Any) -> None:
    """Add `spectron data` and its commands."""
    data = commands.add_parser("data", help="prepare and inspect data")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="KIND")
    pack = kinds.add_parser("pack", help="write tasks to files that `train` reads without TensorFlow")
    pack.add_argument("tasks", nargs="+", metavar="TASK")
    pack.add_argument("--out", required=True, metavar="DIR", help="the folder to set as data.packed")
    pack.set_defaults(run=_pack)
    listing = kinds.add_parser("list", help="list the tasks and mixtures of a config with their sizes")
    listing.set_defaults(run=_list)
    inspect = kinds.add_parser("inspect", help="show examples of a task as text, WAV files and an HTML page")
    inspect.add_argument("task", metavar="TASK")
    inspect.add_argument("--count", type=positive, default=5, metavar="N")
    inspect.add_argument("--out", metavar="DIR", help="write the examples as WAV files, and inspect.html")
    inspect.set_defaults(run=_inspect)
    add_corpus(kinds)
    for command in (pack, listing, inspect):
        command.add_argument("--config", required=True, metavar="CONFIG.py")
        add_set(command)


def _pack(arguments: argparse.Namespace) -> int:
    from spectron.data.packing import pack

    experiment = load_config(arguments, arguments.config)
    for task in arguments.tasks:
        report = pack(experiment, task, arguments.out)
        for line in report.left_out:
            print(f"left out: {line}", file=sys.stderr)
        print(f"{report.folder}: {report.examples} examples, {report.seconds / 60:.1f} minutes")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from spectron.data.sources import source_of
    from spectron.types import UserError

    experiment = load_config(arguments, arguments.config)
    for task in experiment.data.tasks:
        try:
            size = f"{len(source_of(experiment, task.name))} examples"
        except UserError as error:
            size = f"cannot be read: {error}"
        print(f"task     {task.name}: {task.source}, {task.split}, {size}")
    for mixture in experiment.data.mixtures:
        print(f"mixture  {mixture.name}: " + ", ".join(f"{name} × {rate:g}" for name, rate in mixture.rates))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from spectron.audio import wav
    from spectron.data.example import BadExample
    from spectron.data.sources import source_of

    experiment = load_config(arguments, arguments.config)
    source = source_of(experiment, arguments.task)
    rate = experiment.features.sample_rate
    shown = {}
    for i in range(min(arguments.count, len(source))):
        try:
            example = source[i]
        except BadExample as error:
            print(f"{i}: unusable: {error}")
            continue
        shown[i] = example
        seconds = len(example.samples) / rate
        prompt = example.prompt_samples / rate
        print(f"{i}: {example.id} | {example.speaker} | {seconds:.2f} s, prompt {prompt:.2f} s | {example.text}")
        if arguments.out and len(example.samples):
            wav.write(Path(arguments.out) / f"{arguments.task}-{i}.wav", example.samples, rate)
    if arguments.out:
        from spectron.corpora import task_page

        page = Path(arguments.out) / "inspect.html"
        task_page.write(page, experiment, arguments.task, source, shown)
        print(f"Wrote {page}", file=sys.stderr)
    return 0
