"""Transforms side by side: as many as jaxlib 0.11 can bear, all of them elsewhere."""

import concurrent.futures
import threading
import time

import jax
import pytest

from spectron.audio import fft_slots


@pytest.mark.parametrize(("version", "most"), [((0, 11, 2), 3), ((0, 10, 2), 8)])
def test_so_many_at_once(version, most, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.setattr(fft_slots, "_SLOTS", threading.BoundedSemaphore(3))
    inside, seen, lock, waits = 0, [], threading.Lock(), set()

    def work(_):
        nonlocal inside
        with fft_slots.fft_slot() as wait:
            with lock:
                inside += 1
                seen.append(inside)
                waits.add(wait)
            time.sleep(0.2)
            with lock:
                inside -= 1

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert max(seen) == most and waits == {version >= (0, 11)}
