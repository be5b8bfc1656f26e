"""The error for devices that JAX was told to use and cannot."""

from __future__ import annotations

import os
import sys

from spectron.errors import UserError


def no_device() -> UserError | None:
    """What to tell the user if JAX finds no device to compute on, else None. Ask after an error: it starts JAX."""
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    try:
        jax.devices()
    except Exception as error:  # what it raises depends on the platform that was asked for
        reason = str(error).split("\n", maxsplit=1)[0][:200].rstrip(".") or "no backend starts"
        if platform := os.environ.get("JAX_PLATFORMS"):
            advice = f"JAX_PLATFORMS is {platform!r}: unset it, or name a device that this machine has"
        else:
            advice = "set JAX_PLATFORMS=cpu to compute on the CPU"
        return UserError(f"JAX finds no device to compute on ({reason}); {advice}.")
    return None
