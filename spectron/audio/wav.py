"""Audio files → int16 mono at one rate, and back. Every file a user can get wrong ends in one sentence."""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.audio.signal import to_int16
from spectron.config import FeatureConfig
from spectron.types import UserError

SILENCE_DBFS = -60.0  # ours: 33 steps of 16 bits; a microphone in a quiet room peaks higher
_BLOCK_SAMPLES = 1 << 20  # ours: many channels are averaged block by block, so that a long file does not fill memory
RESAMPLING_SECONDS = 0.1  # ours: what is behind a cut still reaches the samples before it
_KINDS = "WAV, FLAC, Ogg, Opus or MP3"
_WRITABLE = ("WAV", "FLAC", "OGG", "MP3")


def read(path: str | Path, sample_rate: int = 16_000, seconds: float = 0.0) -> Int[np.ndarray, " S"]:
    """A WAV, FLAC, Ogg, Opus or MP3 file of any rate and channel count → int16 mono [S] at `sample_rate` Hz.

    seconds: only so many from its beginning, 0 for all.
    Raises UserError for a file that is missing, empty, no audio, without samples, or with NaN or infinite samples.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, ValueError) as error:  # of a value: a name that no file can have
        raise UserError(f"Audio file {str(path)!r} does not exist; check the path.") from error
    except OSError as error:
        raise UserError(
            f"Audio file {str(path)!r} cannot be opened ({error.strerror}); give a readable file."
        ) from error
    return decode_bytes(data, str(path), sample_rate, seconds)


def decode_bytes(data: bytes, name: str, sample_rate: int = 16_000, seconds: float = 0.0) -> Int[np.ndarray, " S"]:
    """The content of an audio file → int16 mono [S] at `sample_rate` Hz. `name` is for messages; errors as in read."""
    import soundfile  # here: a machine that trains on packed data has none

    if not data:
        raise UserError(f"Audio file {name!r} is empty (0 bytes); give a recording.")
    wanted = round(seconds * sample_rate) or None
    flac = decode_flac(data)
    if flac is not None and flac[1] == sample_rate:
        return flac[0][:wanted]
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            mono = _mono(file, math.ceil((seconds + RESAMPLING_SECONDS) * rate) if seconds else None)
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"File {name!r} is damaged or not audio; give {_KINDS}.") from error
    if not mono.size:
        raise UserError(f"Audio file {name!r} holds no samples; give a recording.")
    if not np.isfinite(mono).all():
        raise UserError(f"Audio file {name!r} holds NaN or infinite samples; export it again as 16-bit WAV.")
    return to_int16(resample(mono, rate, sample_rate)[:wanted])


def decode_flac(data: bytes) -> tuple[Int[np.ndarray, " S"], int] | None:
    """Whole mono FLAC of 16 bits → (int16 [S], Hz), the same samples as libsndfile's in less time.

    None for anything else, for a file whose end or middle is missing, and where miniaudio (the extra "data") is not
    installed: libsndfile then has the last word.
    """
    if data[:4] != b"fLaC" or len(data) < 26:
        return None
    try:
        import miniaudio
    except ImportError:
        return None
    # STREAMINFO is first: 20 bits of rate, 3 of channels less one, 5 of bits less one, 36 of samples (RFC 9639 §8.2).
    stated = int.from_bytes(data[18:26], "big")
    rate, size = stated >> 44, stated & ((1 << 36) - 1)
    # One channel, 16 bits; no frame of at most 65,535 samples is shorter than ten bytes: the size is not made up.
    if (stated >> 36) & 0xFF != 15 or not 0 < size < 6554 * len(data):
        return None
    lib, ffi = miniaudio.lib, miniaudio.ffi  # its own functions decode into memory of their own first, then copy
    flac = lib.ma_dr_flac_open_memory(data, len(data), ffi.NULL)
    if not flac:
        return None
    samples = np.empty(size, np.int16)
    try:
        read = lib.ma_dr_flac_read_pcm_frames_s16(flac, size, ffi.cast("ma_int16 *", samples.ctypes.data))
    finally:
        lib.ma_dr_flac_close(flac)
    return (samples, rate) if read == size else None  # a damaged frame is skipped: samples are then missing


def _mono(file: Any, most: int | None) -> Float[np.ndarray, " S"]:
    means, size = [np.zeros(0, np.float32)], max(1, _BLOCK_SAMPLES // file.channels)
    left = sys.maxsize if most is None else most
    # Not file.blocks(): where a cut file ends early, that hands out memory nobody wrote to.
    while left > 0 and len(block := file.read(min(size, left), dtype="float32", always_2d=True)):
        left -= len(block)
        # Opposite infinities average to NaN and huge samples overflow: no warning, the caller names the file.
        with np.errstate(invalid="ignore", over="ignore"):
            means.append(block.mean(axis=1))
    return np.concatenate(means)


def resample(samples: Float[np.ndarray, " S"], rate: int, new_rate: int) -> Float[np.ndarray, " S2"]:
    """Float samples at `rate` Hz → the same sound at `new_rate` Hz, ceil(S · new_rate / rate) samples."""
    if rate == new_rate:
        return samples
    import librosa  # here: slow to import, and most files need no resampling

    return librosa.resample(samples, orig_sr=rate, target_sr=new_rate, res_type="soxr_hq")


def write(path: str | Path, samples: Int[np.ndarray, " S"], sample_rate: int) -> None:
    """Write int16 [S] as 16-bit audio; the suffix says the format (.wav, .flac, .ogg, .mp3).

    The file appears whole or not at all. Makes missing folders. Raises UserError for an unknown suffix, a place that
    cannot be written, or a full disk.
    """
    import soundfile

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in _WRITABLE:
        raise UserError(f"Cannot write audio to {str(path)!r}: its suffix is no audio format; end the name in .wav.")
    encoded = io.BytesIO()
    soundfile.write(encoded, np.asarray(samples, np.int16), sample_rate, format=kind)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded.getvalue())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = error.strerror or "the write failed"
        raise UserError(
            f"Cannot write audio file {str(path)!r} ({reason}); check the folder and the free space."
        ) from error


def check_prompt(
    samples: Int[np.ndarray, " S"], name: str, features: FeatureConfig, min_seconds: float, max_seconds: float
) -> None:
    """Raise UserError if int16 [S] is no usable prompt: too short, too long, or silent (peak below −60 dBFS)."""
    seconds = len(samples) / features.sample_rate
    if seconds < min_seconds:
        raise UserError(
            f"Audio {name!r} lasts {seconds:.2f} s, too short for a prompt; give at least {min_seconds:g} s."
        )
    if seconds > max_seconds:
        raise UserError(
            f"Audio {name!r} lasts {seconds:.2f} s, too long for a prompt; cut it to at most {max_seconds:g} s."
        )
    peak = np.abs(samples.astype(np.int32)).max(initial=0)  # int32: |−32768| is no int16
    if peak < 32768 * 10 ** (SILENCE_DBFS / 20):
        raise UserError(f"Audio {name!r} is silent (peak below {SILENCE_DBFS:g} dBFS); give a recording with speech.")
