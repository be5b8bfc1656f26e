"""What a full disk says, through whatever library it speaks, and that only one of them speaks."""

from __future__ import annotations

import errno
import functools
import logging
import sys
from typing import Any

# What tensorstore, safetensors and the operating system say when there is no room; the first two give text only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left on device", "ENOSPC", "Disk quota exceeded", "File too large")


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one it came from, says that the disk is full."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or any(word in str(error) for word in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


class OneVoice(logging.Filter):
    """Threads log the traceback of a full disk, and then their own; the user gets our sentence instead."""

    failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """False for what the sentence already tells."""
        return not (record.exc_info and (self.failed or disk_full(record.exc_info[1])))


ONE_VOICE = OneVoice()  # one object: adding it to a logger again changes nothing


@functools.cache
def calm() -> None:
    """Once per process: beside one that failed, tensorstore's other reads call back into an event loop that is gone."""
    for library in ("absl", "asyncio"):  # orbax's, and that of its writers nobody waits for any more
        logging.getLogger(library).addFilter(ONE_VOICE)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = hook
