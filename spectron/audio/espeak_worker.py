"""A script that speaks with espeak NG, run in its own process by espeak.py. Standard library and the wheel only.

Reads JSON lines {"texts", "voice", "rate", "pitch"}; answers each text with an 8-byte length and int16 at 22,050 Hz.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

import espeakng_loader

RATE = 22_050  # what espeak NG's voices are made at
_SYNCHRONOUS, _UTF8, _NO_EXIT, _RATE, _PITCH = (
    2,
    1,
    0x8000,
    1,
    3,
)  # names in espeak's speak_lib.h


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), _NO_EXIT)
    if rate != RATE:
        sys.exit(f"espeak NG started with the rate {rate}, not {RATE}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # else the time is: breathy voices would differ from run to run
    return library


def _speak(library: ctypes.CDLL, texts: list[str], voice: str, rate: int, pitch: int) -> bytes:
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples: ctypes._Pointer, count: int, _: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    # espeak keeps the old voice when it does not know the new one, and says so only here.
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak NG has no voice {voice!r}")
    library.espeak_SetSynthCallback(receive)
    library.espeak_SetParameter(_RATE, rate, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    answer = b""
    for text in texts:
        chunks.clear()
        data = text.encode() + b"\0"
        library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        samples = b"".join(chunks)
        answer += struct.pack("<q", len(samples)) + samples
    return answer


def _in_a_child(library: ctypes.CDLL, job: dict) -> bytes:
    """What espeak says depends on what it said before in the same process, so every job gets a fresh copy of it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(_speak(library, **job))
            os._exit(0)
        except Exception as error:  # a child must never return from here
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(1)
    return answer


def main() -> None:
    """Answer every line of stdin on stdout."""
    library = _load()
    for line in sys.stdin:
        sys.stdout.buffer.write(_in_a_child(library, json.loads(line)))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
