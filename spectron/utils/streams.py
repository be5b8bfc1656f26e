"""Standard output and errors as a shell hands them over: open, closed, full, or read no further."""

from __future__ import annotations

import errno
import io
import os
import sys

SIGPIPE = 141  # a shell's exit code for a program that the signal SIGPIPE ended
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def open_standard() -> None:
    """Give the process three standard streams, also where the shell has closed one (`2>&-`).

    Otherwise the next file that is opened takes the number of the closed stream, and libraries write messages into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name, or a transcript, may hold what a terminal cannot show
            stream.reconfigure(errors="backslashreplace")


def stdout_is_full(error: OSError) -> bool:
    """Whether an error is one of writing standard output, whose file no path names."""
    return error.errno in _FULL and error.filename is None


def drop_stdout() -> None:
    """Send what is left of the output nowhere, so that the interpreter's last flush succeeds."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
