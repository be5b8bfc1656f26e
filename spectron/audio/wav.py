"""Reading and writing of audio files as int16 mono samples at a given rate."""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spectron.audio import containers
from spectron.audio.signal import to_int16
from spectron.config import FeatureConfig
from spectron.types import UserError

SILENCE_DBFS = -60.0  # ours: a peak of 33 in 16 bits; a microphone in a quiet room peaks higher
CANCELLED_DB = -30.0  # ours: of the mean of the channels below the loudest, where one channel is the other inverted
RATES = (1_000, 1_000_000)  # ours: a header that states another rate, in Hz, is damaged
_BLOCK_SAMPLES = 1 << 20  # ours: channels are averaged in blocks of this many samples, to save memory
RESAMPLING_SECONDS = 0.1  # ours: read beyond a cut, because the resampling filter reaches ahead
_UNKNOWN = 1 << 40  # libsndfile reports 2^63 − 1 samples if a header has no length
_KINDS = "WAV, FLAC, Ogg, Opus or MP3"
_WRITABLE = ("WAV", "FLAC", "OGG", "MP3")


def read(path: str | Path, sample_rate: int = 16_000, seconds: float = 0.0) -> Int[np.ndarray, " S"]:
    """Read a WAV, FLAC, Ogg, Opus or MP3 file of any rate and channel count as int16 mono [S] at `sample_rate` Hz.

    seconds: read only this much from the start; 0 reads all. Raises UserError if the file is missing, empty, not
    audio, cut off, or FLAC that does not decode to what was encoded; or if it has no samples, or NaN or infinite ones.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, ValueError) as error:  # ValueError: the name is not a valid file name
        raise UserError(f"Audio file {str(path)!r} does not exist; check the path.") from error
    except OSError as error:
        raise UserError(
            f"Audio file {str(path)!r} cannot be opened ({error.strerror}); give a readable file."
        ) from error
    return decode_bytes(data, str(path), sample_rate, seconds)


def decode_bytes(data: bytes, name: str, sample_rate: int = 16_000, seconds: float = 0.0) -> Int[np.ndarray, " S"]:
    """The content of an audio file → int16 mono [S] at `sample_rate` Hz. name: for messages; errors as in `read`."""
    import soundfile  # here, because machines that train on packed data may not have it

    if not data:
        raise UserError(f"Audio file {name!r} is empty (0 bytes); give a recording.")
    if containers.cut_off(data):
        raise _cut_off(name)
    data = containers.repaired(data) or data
    num_samples = round(seconds * sample_rate) or None
    flac = decode_flac(data)
    if flac is not None and flac[1] == sample_rate:
        check_digest(data, flac[0], name)
        return flac[0][:num_samples]
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = file.samplerate
            if not RATES[0] <= rate <= RATES[1]:
                raise ValueError(f"{rate} samples a second")
            limit = math.ceil((seconds + RESAMPLING_SECONDS) * rate) if seconds else sys.maxsize
            digest = containers.SampleDigest(data)
            mono = _mono(file, limit, digest)
            short = len(mono) < min(limit, file.frames * containers.reliable_share(data))
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        if data[:4] == b"fLaC" and containers.flac_cut_off(data):
            raise _cut_off(name) from error
        raise UserError(f"File {name!r} is damaged or not audio; give {_KINDS}.") from error
    if short:
        raise _cut_off(name)
    if len(mono) < limit and containers.holds_others(data, digest):
        raise _differs(name)
    if not mono.size:
        raise UserError(f"Audio file {name!r} holds no samples; give a recording.")
    if not np.isfinite(mono).all():
        raise UserError(f"Audio file {name!r} holds NaN or infinite samples; export it again as 16-bit WAV.")
    return to_int16(resample(mono, rate, sample_rate)[:num_samples])


def _cut_off(name: str) -> UserError:
    return UserError(
        f"Audio file {name!r} is cut off: it holds less than its header states; copy it again, or save what is there "
        f"as a new file."
    )


def check_digest(data: bytes, samples: Int[np.ndarray, " S"], name: str) -> None:
    """Raise UserError if int16 [S], decoded from a FLAC file of 16 bits, are not those that were encoded.

    data: the file, see containers.holds_others. name: for the message.
    """
    digest = containers.SampleDigest(data)
    digest.update(samples)
    if containers.holds_others(data, digest):
        raise _differs(name)


def _differs(name: str) -> UserError:
    return UserError(
        f"Audio file {name!r} is damaged: it decodes to other samples than those that were encoded; copy it again."
    )


def open_audio(path: str | Path) -> Any:
    """A recording opened by libsndfile, with the length in its header put right. Raises OSError and soundfile's."""
    import soundfile

    with _mapped(path) as data:
        repaired = containers.repaired(data)
    return soundfile.SoundFile(io.BytesIO(repaired) if repaired else os.fsencode(path))


def stated(path: str | Path) -> tuple[bool, float, containers.SampleDigest]:
    """What the header of a recording states, to compare with what is decoded.

    Returns whether the file holds less than that, the share of the stated length that a whole file holds at least, and
    the digest to which the samples are to be added. See the functions of `containers`. Raises OSError.
    """
    with _mapped(path) as data:
        return containers.cut_off(data), containers.reliable_share(data), containers.SampleDigest(data)


def damage_of(path: str | Path) -> str:
    """Decode a recording, block by block, and return what is wrong with it: "damaged", "cut off", or "" if nothing is.

    A file is damaged if it cannot be decoded, or decodes to other samples than were encoded (containers.holds_others).
    It is cut off if it has fewer samples than its header states.
    """
    import soundfile

    try:
        cut_off, share, digest = stated(path)
        with open_audio(path) as file:
            kind = "int16" if file.subtype == "PCM_16" else "float32"
            size, block = 0, max(1, _BLOCK_SAMPLES // file.channels)
            while len(samples := file.read(block, dtype=kind, always_2d=True)):
                digest.update(samples)
                size += len(samples)
            if cut_off or size < share * file.frames:
                return "cut off"
        return "damaged" if holds_others(path, digest) else ""
    except (OSError, soundfile.SoundFileError, RuntimeError, ValueError):
        return "damaged"


def holds_others(path: str | Path, digest: containers.SampleDigest) -> bool:
    """containers.holds_others of a file. Raises OSError."""
    with _mapped(path) as data:
        return containers.holds_others(data, digest)


@contextlib.contextmanager
def _mapped(path: str | Path) -> Iterator[Any]:
    """The bytes of a file, read as they are asked for."""
    with Path(path).open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def seconds_of(path: str | Path) -> float:
    """Length of a recording in seconds, from its header where that states it. Raises OSError if it cannot be read."""
    import soundfile

    try:
        with open_audio(path) as file:
            if file.frames >= _UNKNOWN:
                raise OSError(f"{str(path)!r} is cut off")
            return float(file.frames / file.samplerate)
    except (soundfile.SoundFileError, RuntimeError, ValueError) as error:
        raise OSError(str(error)) from error


def has_no_samples(data: bytes) -> bool:
    """Whether this is a whole audio file without samples. A file without bytes, or cut off, is not: a full disk, or a
    copy that was stopped, leaves those."""
    import soundfile

    try:
        empty = soundfile.info(io.BytesIO(containers.repaired(data) or data)).frames == 0
        return bool(empty and not containers.cut_off(data))
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError):
        return False


def decode_flac(data: bytes) -> tuple[Int[np.ndarray, " S"], int] | None:
    """Decode 16-bit mono FLAC to (int16 [S], Hz); the samples equal libsndfile's, in less time.

    None for any other format, for an incomplete or damaged file, and without miniaudio (the extra "data"): use
    libsndfile then.
    """
    if data[:4] != b"fLaC" or len(data) < 26:
        return None
    try:
        import miniaudio
    except ImportError:
        return None
    # STREAMINFO comes first: 20 bits rate, 3 bits channels − 1, 5 bits sample size − 1, 36 bits length (RFC 9639 §8.2).
    stream_info = int.from_bytes(data[18:26], "big")
    rate = stream_info >> 44
    size = stream_info & ((1 << 36) - 1)
    # One channel of 16 bits. A frame has at most 65,535 samples and at least ten bytes: a larger size is corrupt.
    if (stream_info >> 36) & 0xFF != 15 or not 0 < size < 6554 * len(data):
        return None
    lib = miniaudio.lib  # the C functions, because miniaudio's Python functions copy the samples
    ffi = miniaudio.ffi
    flac = lib.ma_dr_flac_open_memory(data, len(data), ffi.NULL)
    if not flac:
        return None
    samples = np.empty(size, np.int16)
    try:
        read = lib.ma_dr_flac_read_pcm_frames_s16(flac, size, ffi.cast("ma_int16 *", samples.ctypes.data))
    finally:
        lib.ma_dr_flac_close(flac)
    return (samples, rate) if read == size else None  # the decoder skips damaged frames


def _mono(file: Any, max_samples: int, digest: containers.SampleDigest) -> Float[np.ndarray, " S"]:
    """The mean of the channels, of at most max_samples; the loudest channel where they cancel each other.

    digest: the samples of all channels are added to it.
    """
    mean, powers = _mixed(file, max_samples, None, digest)
    power = float(np.square(mean, dtype=np.float64).sum()) if len(mean) else 0.0
    if len(powers) > 1 and power < powers.max() * 10 ** (CANCELLED_DB / 10):
        file.seek(0)
        return _mixed(file, max_samples, int(powers.argmax()))[0]
    return mean


def _mixed(
    file: Any, max_samples: int, channel: int | None, digest: containers.SampleDigest | None = None
) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " C"]]:
    """One channel, or the mean of all (None), of at most max_samples; and the sum of squares of each channel."""
    parts, powers, remaining = [np.zeros(0, np.float32)], np.zeros(file.channels), max_samples
    size = max(1, _BLOCK_SAMPLES // file.channels)
    # Not file.blocks(), which returns uninitialised memory if a truncated file ends early.
    while remaining > 0 and len(block := file.read(min(size, remaining), dtype="float32", always_2d=True)):
        remaining -= len(block)
        if digest is not None:
            digest.update(block)
        # No warnings for infinite or huge samples: the caller raises an error that names the file.
        with np.errstate(invalid="ignore", over="ignore"):
            if file.channels > 1:
                powers += np.square(block, dtype=np.float64).sum(axis=0)
            parts.append(block.mean(axis=1) if channel is None else block[:, channel])
    return np.concatenate(parts), powers


def resample(samples: Float[np.ndarray, " S"], rate: int, new_rate: int) -> Float[np.ndarray, " S2"]:
    """Resample from `rate` to `new_rate` Hz: ceil(S · new_rate / rate) samples."""
    if rate == new_rate:
        return samples
    import soxr  # here: machines that train on packed data may not have it

    size = -(-len(samples) * new_rate // rate)
    resampled = soxr.resample(samples, rate, new_rate, quality="HQ")[:size]
    return np.pad(resampled, (0, size - len(resampled)))


def resample_all(recordings: Sequence[Int[np.ndarray, " _"]], rate: int, new_rate: int) -> list[Int[np.ndarray, " _"]]:
    """int16 recordings at another sample rate; the same ones if it is equal."""
    if rate == new_rate:
        return list(recordings)
    return [to_int16(resample(x.astype(np.float32) / 32768, rate, new_rate)) if len(x) else x for x in recordings]


def write(path: str | Path, samples: Int[np.ndarray, " S"], sample_rate: int) -> None:
    """Write int16 [S] as 16-bit audio in the format of the suffix (.wav, .flac, .ogg, .mp3).

    The write is atomic and creates missing folders. Raises UserError for an unknown suffix or if the file cannot be
    written.
    """
    import soundfile

    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in _WRITABLE:
        raise UserError(f"Cannot write audio to {str(path)!r}: unknown suffix; end the name in .wav.")
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
    """Raise UserError if int16 [S] is too short, too long or silent (peak below −60 dBFS) to be a prompt."""
    seconds = len(samples) / features.sample_rate
    if seconds < min_seconds:
        raise UserError(
            f"Audio {name!r} lasts {seconds:.2f} s, too short for a prompt; give at least {min_seconds:g} s."
        )
    if seconds > max_seconds:
        raise UserError(
            f"Audio {name!r} lasts {seconds:.2f} s, too long for a prompt; cut it to at most {max_seconds:g} s."
        )
    peak = np.abs(samples.astype(np.int32)).max(initial=0)  # int32, because |−32768| overflows int16
    if peak < 32768 * 10 ** (SILENCE_DBFS / 20):
        raise UserError(f"Audio {name!r} is silent (peak below {SILENCE_DBFS:g} dBFS); give a recording with speech.")
