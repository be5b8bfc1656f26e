"""Worker process of espeak.py; imports only the standard library and espeakng_loader.

Reads JSON lines {"texts", "voice", "rate", "pitch"} and writes, for each text, an 8-byte length and int16 at 22,050 Hz.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

import espeakng_loader

RATE = 22_050  # Hz, output of espeak NG
# Constants of espeak's speak_lib.h.
_SYNCHRONOUS = 2
_UTF8 = 1
_NO_EXIT = 0x8000
_RATE = 1
_PITCH = 3


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(espeakng_loader.get_data_path()), _NO_EXIT)
    if rate != RATE:
        sys.exit(f"espeak NG started with the rate {rate}, not {RATE}")
    library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # default: the time; breathy voices would vary
    return library


def _speak(library: ctypes.CDLL, texts: list[str], voice: str, rate: int, pitch: int) -> bytes:
    chunks: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples: ctypes._Pointer, count: int, _: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    # For an unknown voice espeak keeps the old one; only the return value shows it.
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak NG has no voice {voice!r}")
    library.espeak_SetSynthCallback(receive)
    library.espeak_SetParameter(_RATE, rate, 0)
    library.espeak_SetParameter(_PITCH, pitch, 0)
    output = b""
    for text in texts:
        chunks.clear()
        data = text.encode() + b"\0"
        library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        samples = b"".join(chunks)
        output += struct.pack("<q", len(samples)) + samples
    return output


def _speak_in_child(library: ctypes.CDLL, job: dict) -> bytes:
    """Run a job in a forked process: espeak's output depends on what the process has spoken before."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pipe.write(_speak(library, **job))
            os._exit(0)
        except Exception as error:  # the child must not return to the parent's code
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(1)
    return output


def main() -> None:
    """Process every line of stdin."""
    library = _load()
    for line in sys.stdin:
        sys.stdout.buffer.write(_speak_in_child(library, json.loads(line)))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
