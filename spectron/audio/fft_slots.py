"""A limit on how many programs with FFTs run on the CPU at once."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import jax

_THREADS = int(os.environ.get("NPROC") or 0) or len(os.sched_getaffinity(0))  # as XLA counts its own
_SLOTS = threading.BoundedSemaphore(max(1, _THREADS - 1))


@contextlib.contextmanager
def fft_slot() -> Iterator[bool]:
    """Hold one of the slots for programs that compute FFTs on the CPU. Yields whether the caller must wait for the
    program's results inside the block. Slots do not nest.

    In jaxlib 0.11.2 an FFT blocks one of XLA's threads until work queued for the same threads is done, so that as many
    programs as there are threads deadlock (seen with 4 of 4 and 2 of 2; 3 of 4 run). jaxlib 0.10.2 does not.
    """
    if jax.__version_info__ < (0, 11) or jax.default_backend() != "cpu":
        yield False
        return
    with _SLOTS:
        yield True
