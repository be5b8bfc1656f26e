"""Detect disk-full errors, and report them once."""

from __future__ import annotations

import errno
import logging
import sys
from typing import Any

# How the operating system, tensorstore and safetensors report a full disk; the last two give text only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left on device", "ENOSPC", "Disk quota exceeded", "File too large")


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one of its causes, means that the disk is full."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or any(word in str(error) for word in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


class DedupLogFilter(logging.Filter):
    """Drops the tracebacks that writer threads log for a full disk: the user gets one UserError instead.

    failed: a save has failed; from then on every logged traceback is a consequence of it and is dropped too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failed = False
        self._installed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a record whose content the UserError repeats."""
        return not (record.exc_info and (self.failed or disk_full(record.exc_info[1])))

    def install(self) -> None:
        """Attach the filter to the loggers of orbax (absl) and asyncio; later calls change nothing.

        After one of tensorstore's writers has failed, its others call back into an event loop that is closed; Python
        prints those through `sys.unraisablehook`, so that hook is filtered too.
        """
        if self._installed:
            return
        self._installed = True
        for library in ("absl", "asyncio"):
            logging.getLogger(library).addFilter(self)
        before = sys.unraisablehook

        def hook(unraisable: Any) -> None:
            if "Event loop is closed" not in str(unraisable.exc_value):
                before(unraisable)

        sys.unraisablehook = hook


DISK_LOGS = DedupLogFilter()  # one for the process
