"""Speech synthesis with espeak NG: pairs of text and speech in many voices, without downloads."""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spectron.audio.signal import to_int16
from spectron.types import UserError

NATIVE_RATE = 22_050  # Hz, output of espeak NG
_WORKER = Path(__file__).with_name("espeak_worker.py")


class Reading(NamedTuple):
    """Texts that one voice speaks one after the other."""

    texts: tuple[str, ...]
    voice: str
    rate: int = 160  # words per minute
    pitch: int = 50  # 0 to 99


def synthesise(
    text: str,
    voice: str = "en-us",
    rate: int = 160,
    pitch: int = 50,
    sample_rate: int = 16_000,
) -> np.ndarray:
    """Synthesise a text as int16 [S]; deterministic. Raises UserError for an unknown voice."""
    return synthesise_all([Reading((text,), voice, rate, pitch)], sample_rate)[0][0]


def synthesise_all(readings: Sequence[Reading], sample_rate: int = 16_000) -> list[list[np.ndarray]]:
    """Synthesise every text of every reading as int16 [S], on all cores.

    The sound of a text may depend on the texts before it in its reading. Raises UserError if espeak is not installed or
    a voice is unknown.
    """
    from spectron.audio import wav

    _check_voices({reading.voice for reading in readings})
    workers = max(1, min(os.cpu_count() or 1, len(readings) // 5))
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(_run_worker, [readings[w::workers] for w in range(workers)]))

    def finish(samples: np.ndarray) -> np.ndarray:
        return to_int16(wav.resample(samples.astype(np.float32) / 32768, NATIVE_RATE, sample_rate))

    return [[finish(x) for x in parts[i % workers][i // workers]] for i in range(len(readings))]


def _check_voices(voices: set[str]) -> None:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise UserError("Synthesised speech needs the package 'espeakng-loader'; pip install 'spectron-jax[synth]'.")
    import espeakng_loader

    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    for voice in voices:
        _, plus, variant = voice.partition("+")
        # espeak ignores an unknown variant without an error.
        if plus and not (variants / variant).is_file():
            raise UserError(f"espeak NG has no voice variant {variant!r} (in {voice!r}); try f1 to f5 or m1 to m8.")


def _run_worker(readings: Sequence[Reading]) -> list[list[np.ndarray]]:
    """Run a worker process that forks per reading: a process with JAX or TensorFlow threads must not fork."""
    jobs = "".join(json.dumps(reading._asdict()) + "\n" for reading in readings).encode()
    done = subprocess.run([sys.executable, str(_WORKER)], input=jobs, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"espeak NG failed: {lines[-1] if lines else f'exit code {done.returncode}'}; check the voice.")
    results: list[list[np.ndarray]] = []
    offset = 0
    for reading in readings:
        results.append([])
        for _ in reading.texts:
            (size,) = struct.unpack_from("<q", done.stdout, offset)
            results[-1].append(np.frombuffer(done.stdout, np.int16, size // 2, offset + 8))
            offset += 8 + size
    return results
