"""What the environment says of a job's other processes, and how a process of such a job ends. Imports no JAX."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

# A job that names its processes itself. JAX reads the first by itself; the other two are named alike by us.
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")  # of a step: a batch script, one process, has its job's NTASKS too
LOST = 4  # exit code
LAST_WORDS = "What was saved is whole; run the same command on what is left."
PARENT = "SPECTRON_PARENT"  # process id, for the child
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG, prctl(2)


def wanted(environment: Mapping[str, str]) -> str:
    """What the environment says of other processes: "explicit", "slurm", "tpu", or "" for none."""
    if EXPLICIT[0] in environment and EXPLICIT[1] in environment:
        return "explicit"
    if int(environment.get(SLURM[1], "1")) > 1 and SLURM[0] in environment:
        return "slurm"
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment or "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    return ""


def supervise(always: bool = False) -> None:
    """Go on in a child of this process, which waits for it, passes signals on and says how it ended.

    Only in a job of several processes (always: even where the environment is silent). JAX aborts every process the
    moment process 0 is gone and lets nothing run before that (jaxlib 0.10 cannot call a Python function with the
    error), so that somebody else has to tell the user. Call it before anything heavy is imported: it runs this
    process's command again, from its beginning.
    """
    if PARENT in os.environ:
        parent = int(os.environ.pop(PARENT))
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(LOST)
        return
    if not always and not wanted(os.environ):
        return
    # In a group of its own a terminal's Ctrl-C reaches it once, through us.
    child = subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:]], env=os.environ | {PARENT: str(os.getpid())}, process_group=0
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    if code == -signal.SIGABRT:
        _say(f"Lost process 0, by the look of it: JAX aborted this process (its words are above). {LAST_WORDS}")
        code = LOST
    elif code < 0:
        _say(f"This process was ended by {signal.Signals(-code).name}. {LAST_WORDS}")
        code = 128 - code  # as a shell counts them
    os._exit(code)


def _say(sentence: str) -> None:
    print(f"spectron: {sentence}", file=sys.stderr, flush=True)
