"""A work folder that several hosts mount: all must see what one of them writes, and the same newest checkpoint."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jax

from spectron.parallel import multihost
from spectron.types import UserError

WAIT_SECONDS = 30.0  # ours: how long a mount may lag
POLL_SECONDS = 0.2


def check_shared(workdir: Path, wait: float = WAIT_SECONDS) -> None:
    """Raise UserError on every process unless all of them see the file that process 0 writes into the work folder.

    Otherwise each would save its part of a checkpoint where the others do not find it. wait: seconds.
    """
    if jax.process_count() == 1:
        return
    token = workdir / multihost.gather(f".shared-{uuid.uuid4().hex}")[0]
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            token.touch()
        except OSError:
            pass  # process 0 does not see it either, and all end with the same sentence
    multihost.gather("written")
    seen = _waits_for(token.exists, wait)
    verdicts = multihost.gather("seen" if seen else "")
    if jax.process_index() == 0:
        token.unlink(missing_ok=True)
    blind = [str(index) for index, verdict in enumerate(verdicts) if not verdict]
    if blind:
        raise UserError(
            f"--workdir {str(workdir)!r} is not one folder for all hosts: process{'es' * (len(blind) > 1)} "
            f"{', '.join(blind)} of {len(verdicts)} did not see within {wait:.0f} s what process 0 wrote there; give a "
            f"folder on a file system that every host mounts."
        )


def newest_step(latest: Callable[[], int | None], folder: Path, wait: float = WAIT_SECONDS) -> int | None:
    """The newest checkpoint's step, the same on every process. latest: what this process sees of it.

    A process that sees an older one waits: file systems show others' files late. Raises UserError on every process if
    they still disagree after `wait` seconds.
    """
    newest = max(_step(told) for told in multihost.gather(str(latest())))
    _waits_for(lambda: _step(str(latest())) >= newest, wait)
    told = multihost.gather(str(latest()))
    if len(set(told)) > 1:
        each = ", ".join(f"process {index} step {step}" for index, step in enumerate(told))
        raise UserError(
            f"The hosts see different checkpoints in {str(folder)!r} as the newest ({each}); mount one file system on "
            f"all of them, or wait until it has caught up."
        )
    return latest()


def _step(told: str) -> int:
    return -1 if told == "None" else int(told)


def _waits_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
