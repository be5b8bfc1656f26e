"""Whether audio files hold what their headers state: length, checksum and order of frames.

Programs that write to a pipe cannot know the length; files are cut off or damaged. All readers of audio use these
functions, so that none takes half a recording, or another one, for the whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

Bytes = Any  # bytes, or an mmap of a file: both are sliced and searched

STREAMED = (0, 0xFFFFFFFF)  # sizes that programs state which write to a pipe
LARGEST = 0x7FFFF000  # from here on a RIFF size is one that stands for "unknown"
SLACK_BYTES = 64  # ours: some programs count their header wrongly; a thousandth of a second is missing at most
_FLAC_INFO = 18  # where rate, channels, sample size and length begin: 64 bits (RFC 9639 §8.2)
_FLAC_LENGTH = (1 << 36) - 1  # the last 36 of them
_FLAC_MD5 = 26  # where the MD5 of all samples begins: 16 bytes, zero if the encoder did not compute it
_SEARCHED = 1 << 24  # ours: bytes searched for frame headers at once, to save memory
_FLAC_BLOCKS = {1: 192, **{i: 576 << (i - 2) for i in range(2, 6)}, **{i: 256 << (i - 8) for i in range(8, 16)}}


def repaired(data: Bytes) -> bytes | None:
    """The file with the length in its header that it has; None if the header states one.

    For WAV and FLAC that were written to a pipe. A FLAC file whose last frame is not whole stays as it is.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _repaired_wav(data)
    if data[:4] == b"fLaC" and len(data) > _FLAC_INFO + 8:
        info = int.from_bytes(data[_FLAC_INFO : _FLAC_INFO + 8], "big")
        size = _flac_samples(data) if info & _FLAC_LENGTH == 0 else 0
        if size:
            whole = bytes(data)
            return whole[:_FLAC_INFO] + (info | size).to_bytes(8, "big") + whole[_FLAC_INFO + 8 :]
    return None


def _repaired_wav(data: Bytes) -> bytes | None:
    for place, name, size in _riff_chunks(data):
        if name != b"data":
            continue
        rest = len(data) - place - 8
        if size != 0 or rest == 0 or _are_chunks(data, place + 8):
            return None  # libsndfile takes all that is there for a size that is too large
        whole = bytes(data)
        return b"RIFF" + struct.pack("<I", len(whole) - 8) + whole[8 : place + 4] + struct.pack("<I", rest) + whole[
            place + 8 :
        ]  # fmt: skip
    return None


def _riff_chunks(data: Bytes, at: int = 12) -> Iterator[tuple[int, bytes, int]]:
    """(place, name, stated size) of the chunks of a RIFF file."""
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        yield at, bytes(data[at : at + 4]), size
        at += 8 + size + size % 2


def _are_chunks(data: Bytes, at: int) -> bool:
    """Whether chunks fill the rest of the file exactly: then a data chunk of size 0 before them is really empty."""
    for place, name, size in _riff_chunks(data, at):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        at = place + 8 + size + size % 2
    return at in (len(data), len(data) + 1)


def cut_off(data: Bytes) -> bool:
    """Whether a file holds less than its header states: its end was not copied or not written.

    False for a FLAC file whose header states its length: the caller counts its samples, see `flac_cut_off`.
    """
    head = bytes(data[:40])
    stated = 0
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        stated = size + 8 if 0 < size < LARGEST else 0
    elif head[:4] == b"FORM":
        stated = int.from_bytes(head[4:8], "big") + 8
    elif head[:4] == b"RF64" and head[12:16] == b"ds64":
        size = int.from_bytes(head[20:28], "little")
        stated = size + 8 if size < 1 << 62 else 0
    elif head[:4] == b"riff":  # Wave64: the size follows a name of 16 bytes, and counts the header
        stated = int.from_bytes(head[16:24], "little")
    elif head[:4] == b".snd":
        offset, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")
        stated = 0 if size in STREAMED else offset + size
    elif head[:4] == b"OggS":
        return _ogg_cut_off(data)
    elif head[:4] == b"fLaC" and len(data) > _FLAC_INFO + 8:
        length = int.from_bytes(head[_FLAC_INFO : _FLAC_INFO + 8], "big") & _FLAC_LENGTH
        return length == 0 and flac_cut_off(data)
    return len(data) < stated - SLACK_BYTES


def reliable_share(data: Bytes) -> float:
    """How much of the length that libsndfile tells a whole file holds at least, 0 to 1.

    The headers of WAV and FLAC state it exactly, those of MP3 by some encoders (Xing's tag, of whole blocks); the
    length of other formats is estimated, or read from the end.
    """
    if data[:4] in (b"RIFF", b"RF64", b"fLaC"):
        return 1.0
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:
        at = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(data[6:10]))
    tagged = bytes(data[at : at + 256])
    return 0.95 if tagged[:1] == b"\xff" and (b"Xing" in tagged or b"Info" in tagged) else 0.0


def _ogg_cut_off(data: Bytes) -> bool:
    """Whether the last page is not whole (RFC 3533 §6). The flag for the last page is not asked for: a live recording
    that was stopped lacks it and is whole."""
    at = data.rfind(b"OggS")
    segments = data[at + 26] if at + 26 < len(data) else 256
    table = bytes(data[at + 27 : at + 27 + segments])
    return len(table) < segments or len(data) < at + 27 + segments + sum(table) - SLACK_BYTES


def flac_cut_off(data: Bytes) -> bool:
    """Whether a FLAC file does not end with a whole frame. It reads that frame: ask when decoding has failed."""
    return len(data) <= _FLAC_INFO + 8 or _flac_samples(data) is None


class SampleDigest:
    """The MD5 of a FLAC file's samples, computed while it is decoded and compared with the header's (RFC 9639 §8.2)."""

    def __init__(self, data: Bytes):
        """data: the file. `known` is False if it is not FLAC of 8, 16 or 24 bits, or its header has no MD5."""
        head = bytes(data[:42])
        is_flac = head[:4] == b"fLaC" and len(head) == 42
        self._bits = (int.from_bytes(head[20:22], "big") >> 4 & 31) + 1 if is_flac else 0
        self._stated = head[_FLAC_MD5:]
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.known = self._bits in (8, 16, 24) and any(self._stated)

    def update(self, samples: np.ndarray) -> None:
        """Add decoded samples [S] or [S, C]: int16 of a file of 16 bits, or float32 from −1 to 1."""
        if not self.known:
            return
        if samples.dtype != np.int16:
            scaled = (samples * float(1 << (self._bits - 1))).astype("<i4")
            samples = scaled.astype({8: "i1", 16: "<i2", 24: "<i4"}[self._bits])
        content = np.ascontiguousarray(samples)
        if self._bits == 24:
            content = np.ascontiguousarray(content.view(np.uint8).reshape(-1, 4)[:, :3])
        self._md5.update(content.tobytes())

    @property
    def differs(self) -> bool:
        """Whether the samples that were added are not those that the header's MD5 was computed from."""
        return self.known and self._md5.digest() != self._stated


def holds_others(data: Bytes, digest: SampleDigest) -> bool:
    """Whether a FLAC file decodes to other samples than those that were encoded; False for other formats.

    digest: all samples were added to it. Judged by the MD5 in the header; without one, by the order of the frames.
    """
    return digest.differs or (not digest.known and frames_out_of_order(data))


# FLAC frames (RFC 9639 §9).


def frames_out_of_order(data: Bytes) -> bool:
    """Whether frames of a FLAC file are missing, repeated or foreign, judged by their numbers, which must run from 0.

    Decoders do not ask for that. Foreign frames whose numbers fit are not found.
    """
    if bytes(data[:4]) != b"fLaC":
        return False
    expected, last = 0, 0  # the number of the next frame; where the last frame begins
    for at in _frame_candidates(data):
        parsed = _frame_header(bytes(data[at : at + 17]))
        if parsed is None:
            continue
        number, block, variable = parsed
        if number == expected:
            expected, last = expected + (block if variable else 1), at
        elif last and _ends_whole(bytes(data[last:at])):  # if not, samples look like a header by chance
            return True
    return not expected


def _ends_whole(frame: bytes) -> bool:
    """Whether these bytes end with the checksum of a frame."""
    return _crc(frame[:-2], 0x8005, 16) == int.from_bytes(frame[-2:], "big")


def _frame_candidates(data: Bytes) -> Iterator[int]:
    """Where the sync code of a frame header stands; by chance once in 32,768 bytes too."""
    for start in range(0, len(data), _SEARCHED):
        part = np.frombuffer(data[start : start + _SEARCHED + 1], np.uint8)
        yield from (start + np.flatnonzero((part[:-1] == 0xFF) & (part[1:] & 0xFE == 0xF8))).tolist()


def _flac_samples(data: Bytes) -> int | None:
    """Samples up to the end of the last frame; None if the file does not end with a whole frame.

    A tag of ID3 version 1, 128 bytes, may follow.
    """
    end = len(data) - (128 if bytes(data[-128:-125]) == b"TAG" else 0)
    fixed_size = int.from_bytes(data[8:10], "big")  # the smallest block; the only one if frames are numbered
    at = end
    while (at := data.rfind(b"\xff", 0, at)) > 0:
        header = bytes(data[at : at + 17])
        if len(header) < 6 or header[1] & 0xFE != 0xF8:
            continue
        parsed = _frame_header(header)
        if parsed is None:
            continue
        number, block, variable = parsed
        if _ends_whole(bytes(data[at:end])):
            return (number if variable else number * fixed_size) + block
        if end - at > 1 << 20:  # no frame is so long
            return None
    return None


def _frame_header(header: bytes) -> tuple[int, int, bool] | None:
    """(number, samples of the block, whether the number is a sample's) of a frame; None if this is no frame header."""
    code, rate = header[2] >> 4, header[2] & 15
    length = next((i for i in range(8) if not header[4] << i & 0x80), 8)  # ones at the front, as in UTF-8
    if length in (1, 8) or code == 0 or rate == 15 or header[3] & 1:
        return None
    size = max(length, 1)
    number = header[4] & (0x7F >> length)
    for byte in header[5 : 4 + size]:
        number = number << 6 | byte & 0x3F
    at = 4 + size
    block = _FLAC_BLOCKS.get(code, 0)
    if code in (6, 7):
        block = int.from_bytes(header[at : at + code - 5], "big") + 1
        at += code - 5
    at += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(header) or _crc(header[:at], 0x07, 8) != header[at]:
        return None
    return number, block, bool(header[1] & 1)


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    """Cyclic redundancy check, most significant bit first, from 0."""
    table, mask, value = _table(polynomial, bits), (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> (bits - 8) ^ byte]
    return value


def _table(polynomial: int, bits: int) -> list[int]:
    key = polynomial, bits
    if key not in _TABLES:
        top, mask = 1 << (bits - 1), (1 << bits) - 1
        table = []
        for value in range(256):
            value <<= bits - 8
            for _ in range(8):
                value = (value << 1 ^ (polynomial if value & top else 0)) & mask
            table.append(value)
        _TABLES[key] = table
    return _TABLES[key]


_TABLES: dict[tuple[int, int], list[int]] = {}
