"""`spectron data pack | list | inspect`, and the commands of corpus.py."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from spectron.cli.corpus import add_corpus
from spectron.cli.flags import add_recogniser, add_set, load_config, positive
from spectron.utils.files import check_out


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
    _add_inspect(kinds)
    add_corpus(kinds)
    for command in (pack, listing):
        command.add_argument("--config", required=True, metavar="CONFIG.py")
        add_set(command)


def _add_inspect(kinds: Any) -> None:
    inspect = kinds.add_parser(
        "inspect",
        help="say what is wrong with a folder of recordings and prepare it for training, or show a task's examples",
        description="Without --config: check RECORDINGS, a folder (NAME.wav with NAME.txt, a manifest, LibriSpeech, "
        "LJSpeech, Common Voice) or a manifest (.jsonl, .tsv, .csv), and prepare them in DIR for configs/own.py. A "
        "second run is quick. With --config: show examples of a task.",
    )
    inspect.add_argument("what", metavar="RECORDINGS|TASK")
    inspect.add_argument(
        "--out", metavar="DIR", help="write what training needs, problems.tsv and inspect.html; of a task: examples as "
        "WAV files, and inspect.html",
    )  # fmt: skip
    inspect.add_argument("--config", metavar="CONFIG.py", help="show a task of this config")
    add_recogniser(inspect, required=False)
    inspect.add_argument(
        "--keep", nargs="+", action="extend", default=[], metavar="PROBLEM",
        help="use recordings in spite of it: truncated, duplicate, too-long, rate-of-speech, misheard",
    )  # fmt: skip
    inspect.add_argument("--count", type=positive, default=5, metavar="N", help="examples of a task (default 5)")
    add_set(inspect)
    inspect.set_defaults(run=_inspect)


def _pack(arguments: argparse.Namespace) -> int:
    from spectron.data.packing import pack

    check_out(arguments.out)
    experiment = load_config(arguments, arguments.config)
    for task in arguments.tasks:
        report = pack(experiment, task, arguments.out)
        for line in report.left_out:
            print(f"left out: {line}", file=sys.stderr)
        print(f"{report.folder}: {report.examples} examples, {report.seconds / 60:.1f} minutes")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from spectron.data.fitting import share_left_out
    from spectron.data.sources import source_of
    from spectron.types import UserError

    experiment = load_config(arguments, arguments.config)
    for task in experiment.data.tasks:
        try:
            source = source_of(experiment, task.name)
            size = (
                f"{len(source)} examples, {100 * share_left_out(source):.1f} % left out, normaliser {task.normaliser}"
            )
        except UserError as error:
            size = f"cannot be read: {error}"
        print(f"task     {task.name}: {task.source}, {task.split}, {size}")
    for mixture in experiment.data.mixtures:
        print(f"mixture  {mixture.name}: " + ", ".join(f"{name} × {rate:g}" for name, rate in mixture.rates))
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from spectron.types import UserError

    if arguments.out is not None:
        check_out(arguments.out)
    if arguments.config:
        if arguments.recogniser or arguments.keep:
            raise UserError("--recogniser and --keep are for a folder of recordings; leave them or --config out.")
        return _inspect_task(arguments)
    if arguments.set:
        raise UserError("--set changes a config; give --config, or set it in training.")
    if not Path(arguments.what).exists():
        raise UserError(
            f"{arguments.what!r} does not exist; give a folder of recordings, a manifest (.jsonl, .tsv, .csv), or the "
            f"name of a task and its --config."
        )
    return _inspect_recordings(arguments)


def _inspect_recordings(arguments: argparse.Namespace) -> int:
    from spectron.corpora import recordings_page
    from spectron.corpora.recordings import inspect_recordings
    from spectron.types import UserError

    out = arguments.out
    inspection = inspect_recordings(arguments.what, out, arguments.recogniser or "", arguments.keep)
    print("\n".join(recordings_page.summary(inspection)), end="\n\n")
    print(recordings_page.table(inspection), end="\n\n")
    if out:
        recordings_page.write(Path(out) / "inspect.html", inspection)
        print(f"Look and listen: {Path(out) / 'inspect.html'}; all names: {Path(out) / 'problems.tsv'}")
    if not inspection.hours("train"):
        raise UserError(f"{arguments.what!r} has no recording to train on; correct what the table names.")
    if out:
        print(f"Next: spectron train configs/own.py --workdir runs/own --set data.root={shlex.quote(out)}")
    return 0


def _inspect_task(arguments: argparse.Namespace) -> int:
    from spectron.audio import wav
    from spectron.data.example import BadExample
    from spectron.data.fitting import check_left_out
    from spectron.data.sources import source_of
    from spectron.data.unknown import check_known

    experiment = load_config(arguments, arguments.config)
    source = source_of(experiment, arguments.what)
    check_known(arguments.what, source, experiment.data.vocabulary)
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
            wav.write(Path(arguments.out) / f"{arguments.what}-{i}.wav", example.samples, rate)
    if arguments.out:
        from spectron.corpora import task_page

        page = Path(arguments.out) / "inspect.html"
        task_page.write(page, experiment, arguments.what, source, shown)
        print(f"Wrote {page}", file=sys.stderr)
    check_left_out(arguments.what, source, experiment.data)  # at the end: what the task is like has been shown
    return 0
