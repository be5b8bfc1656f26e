"""Joining the other processes of a job: which there are, from the environment of Slurm, GKE, TPU VMs or a script."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from spectron.parallel.supervisor import EXPLICIT, LAST_WORDS, LOST, wanted
from spectron.types import UserError

HEARTBEAT_SECONDS = 40  # ours: JAX's own, which aborts the process (its default is 100 s)
PULSE_SECONDS, SILENCE_SECONDS = 2.0, 15.0  # ours: a process says that it is there, and counts as lost
MEETING_SECONDS = 3600  # ours: nothing compiles for longer
PATIENT_SECONDS = 7 * 24 * 3600  # ours: no queue gives a job longer
PULSE, TOLD, DONE = "spectron/pulse/", "spectron/lost", "done"


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


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """While inside, this process is heard of by the others, and ends with LOST and a sentence when one of them is not.

    A collective waits for a peer that died until JAX's own heartbeat aborts the process with a stack trace. So each
    writes a pulse to the coordinator's store, process 0 reads them and writes down who is gone, the others read that.
    """
    if jax.process_count() == 1:
        yield
        return
    # An exception can be lost in a callback, and JAX's own way out waits minutes for the others.
    signal.signal(signal.SIGINT, lambda *_: leave(130))
    stopped = threading.Event()
    thread = threading.Thread(target=_watch, args=(stopped,), daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(SILENCE_SECONDS + 3 * PULSE_SECONDS)  # if a peer's death is behind it, the watch ends us now
        stopped.set()  # and the others, who would wait for this process
        raise
    else:
        stopped.set()
        thread.join()
        _store().key_value_set(f"{PULSE}{jax.process_index()}", DONE, allow_overwrite=True)


def meet(place: str, patient: bool = False) -> None:
    """Wait until every process of the job has come to this place, which has a name of its own in the whole run.

    patient: however long their own work takes them.
    """
    if jax.process_count() > 1:
        seconds = PATIENT_SECONDS if patient else MEETING_SECONDS
        _store().wait_at_barrier(f"spectron/meet/{place}", seconds * 1000)


def leave(code: int) -> int:
    """The exit code, for a process that ends in an error: of several, it does not wait for the others."""
    if not jax.distributed.is_initialized():
        return code
    if jax.process_index() == 0:
        time.sleep(2 * PULSE_SECONDS)  # without the coordinator the others would end before they have said why
    with contextlib.suppress(RuntimeError):  # as a signal's handler it may come into the middle of a print
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _store() -> Any:
    from jax._src import distributed  # the key-value store has no public door

    return distributed.global_state.client


def _watch(stopped: threading.Event) -> None:
    store, me, count = _store(), jax.process_index(), jax.process_count()
    seen = dict.fromkeys(range(count), ("", time.monotonic()))
    beat = 0
    while not stopped.wait(PULSE_SECONDS):
        beat += 1
        try:
            store.key_value_set(f"{PULSE}{me}", str(beat), allow_overwrite=True)
            gone = _silent(store, seen) if me == 0 else _told(store)
        except jax.errors.JaxRuntimeError:
            gone = "process 0"
        if gone and not stopped.is_set():
            if me == 0:
                store.key_value_set(TOLD, gone)
            print(
                f"spectron: Lost {gone} of {count}, not heard of for {SILENCE_SECONDS:.0f} s. {LAST_WORDS}",
                file=sys.stderr,
                flush=True,
            )
            leave(LOST)


def _silent(store: Any, seen: dict[int, tuple[str, float]]) -> str:
    """Who has not changed its pulse in time; `seen` holds each one's last and when it came."""
    now = time.monotonic()
    for key, value in store.key_value_dir_get(PULSE):
        index = int(key.rsplit("/", 1)[-1])
        if value != seen[index][0]:
            seen[index] = value, now
    late = [i for i, (value, at) in seen.items() if value != DONE and now - at > SILENCE_SECONDS]
    return f"process{'es' * (len(late) > 1)} {', '.join(map(str, late))}" if late else ""


def _told(store: Any) -> str:
    try:
        return store.key_value_try_get(TOLD)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return ""
