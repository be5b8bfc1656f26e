"""Detecting a multi-process job, and running this command in a supervised child process. Imports no JAX."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

# Variables of a job that numbers its processes itself. JAX reads the first; the names of the other two are ours.
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = (
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
)  # set in a job step only: SLURM_NTASKS is set in the batch script too, which is one process
LOST = 4  # exit code of a process that ends because another one was lost
ADVICE = "The saved checkpoints are complete; run the same command on the remaining machines."
PARENT = "SPECTRON_PARENT"  # the child reads its parent's process id from this variable
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def job_kind(environment: Mapping[str, str]) -> str:
    """How the environment describes a multi-process job: "explicit", "slurm", "tpu", or "" if it describes none."""
    if EXPLICIT[0] in environment and EXPLICIT[1] in environment:
        return "explicit"
    if int(environment.get(SLURM[1], "1")) > 1 and SLURM[0] in environment:
        return "slurm"
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment or "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    return ""


def reexec_supervised(always: bool = False) -> None:
    """Run this command again in a child process; the parent waits, forwards signals and reports how the child ended.

    Does nothing outside a multi-process job (always: supervise even if the environment describes none). JAX aborts
    every process when process 0 is gone and runs no Python code before that (jaxlib 0.10 cannot pass the error to a
    Python function), so a parent process has to print the explanation. Call it before heavy imports: the child starts
    the command from its beginning.
    """
    if PARENT in os.environ:
        parent = int(os.environ.pop(PARENT))
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(LOST)
        return
    if not always and not job_kind(os.environ):
        return
    # In its own process group, so that Ctrl-C in a terminal reaches the child once, forwarded by the parent.
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env=os.environ | {PARENT: str(os.getpid())}, process_group=0
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    if code == -signal.SIGABRT:
        _report(f"Lost process 0, probably: JAX aborted this process (its message is above). {ADVICE}")
        code = LOST
    elif code < 0:
        _report(f"This process was ended by {signal.Signals(-code).name}. {ADVICE}")
        code = 128 - code  # the exit code that a shell reports
    os._exit(code)


def _report(sentence: str) -> None:
    print(f"spectron: {sentence}", file=sys.stderr, flush=True)
