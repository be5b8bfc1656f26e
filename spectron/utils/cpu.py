"""A process set up for computing on the CPU: glibc's allocator, and how XLA compiles."""

from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import os
import platform

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*")

# XLA's newer emitters of fused loops take longer to compile, and small models run slower by them (configs/README.md,
# quickstart.py, has the figures). Later versions have no others, and end the process at a flag that they do not know.
_FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"
_LAST_WITH_CHOICE = (0, 10)  # of jaxlib


def prepare() -> None:
    """Set this process up for computing on the CPU, if it has no accelerator; call it before jax is imported."""
    if any(glob.glob(pattern) for pattern in _ACCELERATORS):
        return
    keep_freed_memory()
    os.environ["XLA_FLAGS"] = xla_flags(os.environ.get("XLA_FLAGS", ""), importlib.metadata.version("jaxlib"))


def xla_flags(flags: str, jaxlib: str) -> str:
    """XLA's flags for computing on the CPU. flags: those that the user has set, which stay. jaxlib: its version."""
    if _FUSION_EMITTERS in flags or tuple(map(int, jaxlib.split(".")[:2])) > _LAST_WITH_CHOICE:
        return flags
    return f"{flags} --{_FUSION_EMITTERS}=false".strip()


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, where its C library is glibc.

    By default glibc returns every large buffer to the kernel, and the next step gets it back page by page, zeroed: a
    third of the time of a small model's training step.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    # Only the first arena can grow without limit; with several, each thread's shrinks at once.
    library.mallopt(_ARENA_MAX, 1)
    library.mallopt(_MMAP_THRESHOLD, 1 << 30)
    library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    library.mallopt(_TOP_PAD, 64 << 20)
