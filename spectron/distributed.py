"""Joining the other processes of a job: which there are, from the environment of Slurm, GKE, TPU VMs or a script."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import jax

from spectron.types import LostProcessError, UserError

HEARTBEAT_SECONDS = 20  # ours: a dead peer is noticed after one to two of them (JAX waits 100 s)
# What gloo, NCCL and JAX's coordination service say of a peer that is gone.
PEER_WORDS = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat", "barrier", "Connection", "Socket")
# A job that names its processes itself. JAX reads the first by itself; the other two are named alike by us.
EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def wanted(environment: Mapping[str, str]) -> str:
    """What the environment says of other processes: "explicit", "slurm", "tpu", or "" for none."""
    if EXPLICIT[0] in environment and EXPLICIT[1] in environment:
        return "explicit"
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in environment:
        return "slurm"
    if "MEGASCALE_COORDINATOR_ADDRESS" in environment or "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "tpu"
    return ""


def connect(always: bool = False, environment: Mapping[str, str] | None = None) -> bool:
    """Join the job's other processes, if the environment names any; before anything else touches a device.

    always: ask JAX to find them even where the environment is silent (a TPU VM asks its metadata server). Returns
    whether there are others. Raises UserError where they should be and cannot be found.
    """
    environment = os.environ if environment is None else environment
    kind = wanted(environment)
    if not kind and not always:
        return False
    given: dict[str, Any] = {}
    if kind == "explicit":
        address, count, index = (environment.get(name, "") for name in EXPLICIT)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise UserError(
                f"{EXPLICIT[1]}={count!r} and {EXPLICIT[2]}={index!r} do not number a process; "
                f"give how many there are, and which this is from 0."
            )
        given = {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"The other processes of this job were not found ({kind or 'asked for'}): {first}") from error
    return jax.process_count() > 1


def of_a_peer(error: Exception) -> bool:
    """Whether an error says that another process did not answer."""
    return any(word in str(error) for word in PEER_WORDS)


def lost(error: Exception) -> Exception:
    """What to raise for a step that failed in a job of several processes: the sentence naming those that are gone, or
    the error itself when all are there.

    Survivors sign in with the coordinator (process 0); who does not, is gone.
    """
    from jax._src import distributed  # the key-value store has no public door

    client: Any = distributed.global_state.client
    me, count = jax.process_index(), jax.process_count()
    here: set[int] = set()
    deadline = time.monotonic() + HEARTBEAT_SECONDS
    try:
        client.key_value_set(f"spectron/here/{me}", "")
        while len(here) < count - 1 and time.monotonic() < deadline:
            time.sleep(0.2)
            here = {int(key.rsplit("/", 1)[-1]) for key, _ in client.key_value_dir_get("spectron/here/")}
        time.sleep(2.0)  # a last one may sign in, and the coordinator must not leave before all have asked
        here = {int(key.rsplit("/", 1)[-1]) for key, _ in client.key_value_dir_get("spectron/here/")}
    except jax.errors.JaxRuntimeError:
        here = set(range(1, count))  # nobody answers
    gone = sorted(set(range(count)) - here)
    if not gone:
        return error
    if me == 0:
        time.sleep(2.0)
    names = f"process {gone[0]}" if len(gone) == 1 else f"processes {', '.join(map(str, gone))}"
    first = (str(error).strip() or repr(error)).splitlines()[0]
    return LostProcessError(
        f"Lost {names} of {count} ({first}); the last checkpoint is whole: run the same command on what is left."
    )
