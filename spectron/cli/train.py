"""`spectron train` and `spectron compile`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from spectron.cli.flags import add_set, check_out_file, load_config, positive
from spectron.errors import UserError
from spectron.parallel import supervisor
from spectron.utils.files import check_out

if TYPE_CHECKING:
    from spectron.config import Experiment


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
    compiler.add_argument(
        "--compare", action="store_true", help="try attention kernels, rematerialisation and sizes of logits chunks too"
    )
    compiler.add_argument("--json", metavar="FILE", help="write the report there too")
    add_set(compiler)
    compiler.set_defaults(run=_compile)


def check_stages(experiment: Experiment) -> None:
    """Raise UserError if there is nothing to train."""
    if not experiment.stages:
        raise UserError(f"Experiment {experiment.name!r} has no stages; add at least one StageConfig.")


def _train(arguments: argparse.Namespace) -> int:
    check_out(arguments.workdir, "--workdir")
    supervisor.reexec_supervised(arguments.distributed)
    experiment = load_config(arguments, arguments.config)
    check_stages(experiment)
    for name in arguments.stage or ():
        experiment.stage(name)
    from spectron.parallel import multihost
    from spectron.training.loop import train

    multihost.connect(arguments.distributed)
    try:
        with multihost.watching():
            train(experiment, arguments.workdir, arguments.stage)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return multihost.hard_exit(2)
    return 0


def _compile(arguments: argparse.Namespace) -> int:
    if arguments.json is not None:
        check_out_file(arguments.json, "--json")
    from spectron.compile import aot, command

    aot.prepare()  # before anything looks for devices
    experiment = load_config(arguments, arguments.config)
    check_stages(experiment)
    print(
        command.command(
            experiment,
            arguments.stage or experiment.stages[-1].name,
            arguments.topology,
            arguments.slices,
            arguments.mesh,
            find_batch=arguments.find_batch,
            compare_variants=arguments.compare,
            json_file=arguments.json,
        )
    )
    return 0
