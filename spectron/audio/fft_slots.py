"""How many threads may run transforms on the CPU at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import jax

_THREADS = int(os.environ.get("NPROC") or 0) or len(os.sched_getaffinity(0))  # as XLA counts its own
_SLOTS = threading.BoundedSemaphore(max(1, _THREADS - 1))


@contextlib.contextmanager
def turn() -> Iterator[bool]:
    """Run a program with transforms inside, and wait for it if this says so. Not one turn within another.

    In jaxlib 0.11.2 a transform waits in one of XLA's threads for work that is queued for the same threads, so that as
    many programs as there are threads wait for ever (seen with 4 of 4 and 2 of 2; 3 of 4 run). 0.10.2 does not.
    """
    if jax.__version_info__ < (0, 11) or jax.default_backend() != "cpu":
        yield False
        return
    with _SLOTS:
        yield True
