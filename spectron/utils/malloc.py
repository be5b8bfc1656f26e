"""glibc's allocator, set up for computing on the CPU."""

from __future__ import annotations

import ctypes
import glob
import platform

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*")


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, if it computes on the CPU; call it before jax is imported.

    By default glibc returns every large buffer to the kernel, and the next step gets it back page by page, zeroed: a
    third of the time of a small model's training step. Other C libraries, and machines with an accelerator, stay as
    they are.
    """
    if platform.libc_ver()[0] != "glibc" or any(glob.glob(pattern) for pattern in _ACCELERATORS):
        return
    library = ctypes.CDLL(None)
    # Only the first arena can grow without limit; with several, each thread's shrinks at once.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_THRESHOLD, 1 << 30)
    library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    library.mallopt(_TOP_PAD, 64 << 20)
