"""`spectron generate`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectron.cli.flags import positive
from spectron.parallel import supervisor

if TYPE_CHECKING:
    from spectron.types import Answer

SOME_FAILED = 3  # exit code
FEW = 100  # ours: with more inputs, no pictures are drawn and no texts are printed


def add_generate(commands: Any) -> None:
    """Flags of `spectron generate`."""
    generate = commands.add_parser(
        "generate",
        help="continue recordings, one or a million: NAME.wav, NAME.png and NAME.json for each",
        epilog="If it is interrupted, the same command answers the inputs that are missing. Inputs that cannot be read "
        "are listed in OUT/failures.jsonl; the exit code is then 3.",
    )
    generate.add_argument(
        "audio",
        nargs="+",
        metavar="INPUT",
        help="audio (WAV, FLAC, Ogg, Opus, MP3; any rate), folders, patterns in quotes, manifests (.jsonl with audio)",
    )
    generate.add_argument(
        "--checkpoint", required=True, metavar="DIR", help="a work folder, a stage's or a step's, or an export"
    )
    generate.add_argument("--out", required=True, metavar="DIR", help="laid out as the inputs are; keeps its answers")
    generate.add_argument("--seed", type=int, default=0, help="of the randomness in decoding (default 0)")
    generate.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="sample text tokens at this temperature (default: 0, the most likely token; 1 with --top-k or --top-p)",
    )
    generate.add_argument(
        "--top-k", type=int, default=0, metavar="K", help="sample from the K most likely tokens (default 0: all)"
    )
    generate.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the most likely tokens whose probabilities sum to P (default 1: all)",
    )
    generate.add_argument(
        "--batch-size", type=positive, default=8, metavar="N", help="answers decoded together per device (default 8)"
    )
    generate.add_argument(
        "--prompt-seconds", type=float, default=0.0, metavar="X", help="use the first X s of each (default: all)"
    )
    generate.add_argument(
        "--pictures", action=argparse.BooleanOptionalAction, help=f"spectrograms (default: up to {FEW} inputs)"
    )
    generate.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="only every Nth input from number I (from 0) on (default: by the job's processes)",
    )
    generate.add_argument(
        "--distributed", action="store_true", help="ask the machine for the job's other processes (TPU VMs)"
    )
    generate.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    # The hosts of a TPU slice must start JAX together; elsewhere the processes of a job are independent.
    joined = not arguments.part and (arguments.distributed or supervisor.job_kind(os.environ) == "tpu")
    if not joined:
        return _answer(arguments, *(arguments.part or _part_of(os.environ)))
    supervisor.reexec_supervised(always=True)
    from spectron.parallel import multihost
    from spectron.types import UserError

    multihost.connect(always=True)
    import jax

    try:
        with multihost.watching():
            code = _answer(arguments, jax.process_index(), jax.process_count())
            multihost.barrier("generated", patient=True)
    except UserError as error:
        print(f"spectron: {error}", file=sys.stderr)
        return multihost.hard_exit(2)
    return code


def _answer(arguments: argparse.Namespace, part: int, parts: int) -> int:
    """Every input of one part of a job; returns the exit code."""
    from spectron.checkpoints.checkpoint import Checkpoint
    from spectron.inference.inputs import find_inputs
    from spectron.types import UserError
    from spectron.utils.files import check_out

    check_out(arguments.out)
    inputs = find_inputs(arguments.audio, arguments.out)
    few = len(inputs) <= FEW
    draws = few if arguments.pictures is None else arguments.pictures
    if not 0 <= arguments.seed < 2**31:
        raise UserError(f"--seed {arguments.seed} is out of range; give 0 to {2**31 - 1}.")
    checkpoint = Checkpoint.open(arguments.checkpoint)
    from spectron.inference.api import Spectron
    from spectron.inference.batch_job import JobSettings, generate
    from spectron.inference.sampling import make_sampler

    settings = JobSettings(
        facts=checkpoint.facts,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        prompt_seconds=arguments.prompt_seconds,
        pictures=draws,
        sampler=make_sampler(arguments.temperature, arguments.top_k, arguments.top_p),
    )
    summary = generate(
        Spectron.from_checkpoint(checkpoint),
        inputs,
        arguments.out,
        settings,
        part=(part, parts),
        on_answer=_show if few else None,
    )
    print(summary if parts == 1 else f"Part {part} of {parts}: {summary}")
    for reason in summary.failed[:FEW]:
        print(f"spectron: {reason}", file=sys.stderr)
    return SOME_FAILED if summary.failed else 0


def _show(path: Path, answer: Answer) -> None:
    with contextlib.suppress(BrokenPipeError):  # the reader of stdout may end early; the files are still written
        print(f"{path}: {answer.transcript}")


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} must be written I/N, with I from 0 to N - 1")
    return int(number), int(count)


def _part_of(environment: Mapping[str, str]) -> tuple[int, int]:
    """(index, number) of this process in its job. Processes are independent: a lost one loses only its own inputs."""
    from spectron.types import UserError

    names = {"explicit": supervisor.EXPLICIT[:0:-1], "slurm": supervisor.SLURM}.get(supervisor.job_kind(environment))
    if names is None:
        return 0, 1
    try:
        return _part("/".join(environment.get(name, "") for name in names))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{names[0]} and {names[1]} do not number a process; give --part I/N.") from error
