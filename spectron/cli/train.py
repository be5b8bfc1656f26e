"""`spectron train` and `spectron compile`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from spectron.cli.flags import add_set, load_config, positive
from spectron.parallel import supervisor


def add_train(commands: Any) -> None:
    """Flags of `spectron train`."""
    train = commands.add_parser("train", help="train a config's stages; resumes from the newest checkpoint")
    train.add_argument("config", metavar="CONFIG.py")
    train.add_argument("--workdir", required=True, metavar="DIR", help="checkpoints and logs, one folder per stage")
    train.add_argument(
        "--distributed",
        action="store_true",
        help="look for the job's other processes even where the environment names none (TPU VMs)",
    )
    train.add_argument("--stage", action="append", metavar="NAME", help="only this stage (repeatable)")
    add_set(train)
    train.set_defaults(run=_train)


def add_compile(commands: Any) -> None:
    """Flags of `spectron compile`."""
    compiler = commands.add_parser(
        "compile", help="compile a training step for a TPU that is not there: fit, FLOPs, collectives"
    )
    compiler.add_argument("config", metavar="CONFIG.py")
    compiler.add_argument("--topology", required=True, metavar="NAME", help="v5e:4x4, v5p:4x4x8, v4:4x4x4, v6e:8x8, …")
    compiler.add_argument("--slices", type=positive, default=1, metavar="N", help="of that topology (default 1)")
    compiler.add_argument(
        "--mesh",
        default="",
        metavar="AXIS=N,…",
        help="replica, data, fsdp, tensor (default: config's, or the fastest)",
    )
    compiler.add_argument("--stage", metavar="NAME", help="default: the last")
    compiler.add_argument("--find-batch", action="store_true", help="the largest batch that fits")
    compiler.add_argument("--json", metavar="FILE", help="write the report there too")
    add_set(compiler)
    compiler.set_defaults(run=_compile)


def _train(arguments: argparse.Namespace) -> int:
    supervisor.reexec_supervised(arguments.distributed)
    experiment = load_config(arguments, arguments.config)
    for name in arguments.stage or ():
        experiment.stage(name)
    from spectron.parallel import multihost
    from spectron.training.loop import train
    from spectron.types import UserError

    multihost.connect(arguments.distributed)
    try:
        with multihost.watching():
            train(experiment, arguments.workdir, arguments.stage)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return multihost.hard_exit(2)
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    from spectron.compile import aot, command

    aot.prepare()  # before anything looks for devices
    experiment = load_config(arguments, arguments.config)
    print(
        command.command(
            experiment,
            arguments.stage or experiment.stages[-1].name,
            arguments.topology,
            arguments.slices,
            arguments.mesh,
            find_batch=arguments.find_batch,
            json_file=arguments.json,
        )
    )
    return 0
