"""What accelerators can do: the data sheets' figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator: dense bfloat16 FLOP/s, bytes of memory and per second to and from it, bytes per second that it
    can send to its neighbours over all links together (ici), and over the data-centre network (dcn)."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    ici: float = 0.0
    dcn: float = 0.0


# Cloud TPU's system architecture pages (docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e); links are given there in
# both directions together, here one way. NVIDIA: the data sheets, dense figures. Keys: what JAX calls the device.
CHIPS = {
    "TPU v4": Chip("v4", 275e12, 32 * 2**30, 1228e9, ici=300e9, dcn=6.25e9),
    "TPU v5 lite": Chip("v5e", 197e12, 16e9, 819e9, ici=200e9, dcn=3.125e9),
    "TPU v5": Chip("v5p", 459e12, 95 * 2**30, 2765e9, ici=600e9, dcn=6.25e9),
    "TPU v6 lite": Chip("v6e", 918e12, 32e9, 1640e9, ici=400e9, dcn=12.5e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100", 312e12, 80e9, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip("H100", 989e12, 80e9, 3350e9),
    "NVIDIA H200": Chip("H200", 989e12, 141e9, 4800e9),
}
ALIASES = {"TPU v5e": "TPU v5 lite", "TPU v5p": "TPU v5", "TPU v6e": "TPU v6 lite"}


def chip_of(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`; None for a CPU or a chip that is not in the table."""
    return CHIPS.get(ALIASES.get(kind, kind))


def peak_flops(devices: Sequence[Any]) -> float:
    """FLOP/s of all devices together; 0 if one is not in the table."""
    chips = [chip_of(device.device_kind) for device in devices]
    return sum(chip.flops for chip in chips if chip) if all(chips) else 0.0
