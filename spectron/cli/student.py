"""`spectron noisy-student`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spectron.cli.flags import add_set


def add_noisy_student(commands: Any) -> None:
    """Add `spectron noisy-student`."""
    student = commands.add_parser(
        "noisy-student", help="train recognisers in generations on pseudo-labels of the one before; resumes by itself"
    )
    student.add_argument("config", metavar="CONFIG.py", help="defines loop(); such as configs/noisy_student.py")
    student.add_argument("--workdir", required=True, metavar="DIR", help="folder for the generations and the results")
    add_set(student)
    student.set_defaults(run=_noisy_student)


def _noisy_student(arguments: argparse.Namespace) -> int:
    from spectron.config import load_loop
    from spectron.utils.files import check_out

    check_out(arguments.workdir, "--workdir")
    config = load_loop(arguments.config, arguments.set)
    from spectron.noisy_student.loop import markdown, run

    results = run(config, arguments.workdir)
    if results is None:
        return 0
    print(markdown(results))
    print(f"Table: {Path(arguments.workdir) / 'results.md'}")
    return 0
