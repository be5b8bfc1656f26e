"""Joining a multi-process job (Slurm, GKE, TPU VMs or explicit variables), barriers, words that all processes exchange,
and detecting lost processes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from spectron.parallel.supervisor import ADVICE, EXPLICIT, LOST, job_kind
from spectron.types import UserError

HEARTBEAT_SECONDS = 40  # ours: JAX aborts the process after that (its default is 100 s)
PULSE_SECONDS = 2.0  # ours: how often a process writes a pulse
SILENCE_SECONDS = 15.0  # ours: a process without a new pulse for so long counts as lost
BARRIER_SECONDS = 3600  # ours: longer than any compilation
PATIENT_SECONDS = 7 * 24 * 3600  # ours: longer than the time limit of any queue
# Keys and a value in the coordinator's key-value store.
PULSE_KEY, LOST_KEY, DONE = "spectron/pulse/", "spectron/lost", "done"
_gathered = itertools.count()  # numbers the calls of gather, which are the same on every process


def connect(always: bool = False, environment: Mapping[str, str] | None = None) -> bool:
    """Join the job's other processes, if the environment describes any. Call it before anything touches a device.

    always: let JAX look for them even if the environment describes none (a TPU VM asks its metadata server). Returns
    whether there is more than one process. Raises UserError if they cannot be found.
    """
    environment = os.environ if environment is None else environment
    kind = job_kind(environment)
    if not kind and not always:
        return False
    given: dict[str, Any] = {}
    if kind == "explicit":
        address, count, index = (environment.get(name, "") for name in EXPLICIT)
        if not (count.isdigit() and index.isdigit() and int(index) < int(count)):
            raise UserError(
                f"{EXPLICIT[1]}={count!r} and {EXPLICIT[2]}={index!r} do not number a process; "
                f"set them to the number of processes and to this process's index, from 0."
            )
        given = {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}
        if int(index) == 0:
            _check_port(address)
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"The other processes of this job were not found ({kind or 'asked for'}): {first}") from error
    return jax.process_count() > 1


def _check_port(address: str) -> None:
    """Raise UserError if the coordinator's port is in use: JAX would wait for processes that another job answers."""
    port = address.rpartition(":")[2]
    if not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UserError(f"{EXPLICIT[0]}={address!r} has no port; write HOST:PORT.")
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return  # JAX tells what else is wrong
        raise UserError(
            f"Port {port} of {EXPLICIT[0]} is in use on this machine, by another job or one that has not ended; give "
            f"another port."
        ) from error


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Inside the block, end this process with exit code LOST and one sentence when another process of the job is lost.

    Without it, a collective waits for a dead peer until JAX's heartbeat aborts the process with a stack trace. Every
    process writes a pulse to the coordinator's key-value store; process 0 reads them all and writes which process is
    lost; the others read that.
    """
    if jax.process_count() == 1:
        yield
        return
    # KeyboardInterrupt can be swallowed in a callback, and JAX's shutdown waits minutes for the other processes.
    signal.signal(signal.SIGINT, lambda *_: hard_exit(130))
    stopped = threading.Event()
    thread = threading.Thread(target=_watch, args=(stopped,), daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(
                SILENCE_SECONDS + 3 * PULSE_SECONDS
            )  # if a lost peer caused it, the watcher ends the process now
        stopped.set()  # no more pulses: the other processes end instead of waiting
        raise
    else:
        stopped.set()
        thread.join()
        _store().key_value_set(f"{PULSE_KEY}{jax.process_index()}", DONE, allow_overwrite=True)


def barrier(name: str, patient: bool = False) -> None:
    """Wait until every process of the job has called barrier with this name, which must be unique in the run.

    patient: wait for days instead of an hour, for processes whose work takes different times.
    """
    if jax.process_count() > 1:
        seconds = PATIENT_SECONDS if patient else BARRIER_SECONDS
        _store().wait_at_barrier(f"spectron/barrier/{name}", seconds * 1000)


def gather(value: str) -> list[str]:
    """Every process's value, in the order of the processes, on all of them. Every process must call it.

    Through the coordinator, so that a process may be late by minutes; for a few words, not for arrays.
    """
    if jax.process_count() == 1:
        return [value]
    store, key, limit = _store(), f"spectron/gather/{next(_gathered)}", BARRIER_SECONDS * 1000
    store.key_value_set(f"{key}/{jax.process_index()}", value)
    if jax.process_index() == 0:  # which alone asks for all of them
        values = [store.blocking_key_value_get(f"{key}/{i}", limit) for i in range(jax.process_count())]
        store.key_value_set(f"{key}/all", json.dumps(values))
    return json.loads(store.blocking_key_value_get(f"{key}/all", limit))


def hard_exit(code: int) -> int:
    """End a process of a multi-process job without waiting for the others; in a single process return `code`."""
    if not jax.distributed.is_initialized():
        return code
    if jax.process_index() == 0:
        time.sleep(2 * PULSE_SECONDS)  # the others end with the coordinator; give them time to print why
    with contextlib.suppress(RuntimeError):  # in a signal handler a print may be in progress
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _store() -> Any:
    from jax._src import distributed  # the key-value store has no public interface

    return distributed.global_state.client


def _watch(stopped: threading.Event) -> None:
    store, me, count = _store(), jax.process_index(), jax.process_count()
    seen = dict.fromkeys(range(count), ("", time.monotonic()))
    beat = 0
    while not stopped.wait(PULSE_SECONDS):
        beat += 1
        try:
            store.key_value_set(f"{PULSE_KEY}{me}", str(beat), allow_overwrite=True)
            lost = _overdue(store, seen) if me == 0 else _reported(store)
        except jax.errors.JaxRuntimeError:
            lost = "process 0"
        if lost and not stopped.is_set():
            if me == 0:
                store.key_value_set(LOST_KEY, lost)
            print(
                f"spectron: Lost {lost} of {count}: no sign of life for {SILENCE_SECONDS:.0f} s. {ADVICE}",
                file=sys.stderr,
                flush=True,
            )
            hard_exit(LOST)


def _overdue(store: Any, seen: dict[int, tuple[str, float]]) -> str:
    """Names of processes whose pulse is overdue, "" if none. Updates `seen`: index → (last pulse, when it came)."""
    now = time.monotonic()
    for key, value in store.key_value_dir_get(PULSE_KEY):
        index = int(key.rsplit("/", 1)[-1])
        if value != seen[index][0]:
            seen[index] = value, now
    late = [i for i, (value, at) in seen.items() if value != DONE and now - at > SILENCE_SECONDS]
    return f"process{'es' * (len(late) > 1)} {', '.join(map(str, late))}" if late else ""


def _reported(store: Any) -> str:
    """The processes that process 0 has reported as lost, "" if none."""
    try:
        return store.key_value_try_get(LOST_KEY)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return ""
