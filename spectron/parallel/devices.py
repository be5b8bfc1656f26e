"""The error for devices that JAX was told to use and cannot."""

from __future__ import annotations

import os

from spectron.errors import UserError

SENTENCES = ("Unable to initialize backend", "Unknown backend", "No visible")  # parts of JAX's


def no_device(error: BaseException) -> UserError | None:
    """What to tell the user if an error means that JAX finds no device to compute on, else None."""
    if not isinstance(error, RuntimeError) or not any(words in str(error) for words in SENTENCES):
        return None
    reason = str(error).split("\n", maxsplit=1)[0][:200].rstrip(".")
    if platform := os.environ.get("JAX_PLATFORMS"):
        advice = f"JAX_PLATFORMS is {platform!r}: unset it, or name a device that this machine has"
    else:
        advice = "set JAX_PLATFORMS=cpu to compute on the CPU"
    return UserError(f"JAX finds no device to compute on ({reason}); {advice}.")
