"""FLAC files damaged at random: bytes flipped, cut, zeroed or spliced, frames moved, or swapped for another file's."""

import numpy as np

KINDS = ("flip", "cut", "zero", "splice", "frames", "swap")


def damage(kind, whole, other, rng):
    """The bytes of a file, damaged. other: the bytes of another recording, for splices."""
    damaged = bytearray(whole)
    size = len(whole)
    # Half of the damage is anywhere; the other half is where a file is most sensitive, its header.
    at = int(rng.integers(4, size if rng.random() < 0.9 else 200))
    length = int(10 ** rng.uniform(0, np.log10(size / 2)))
    if kind == "flip":
        for place in rng.integers(4, size, int(rng.integers(1, 10))):
            damaged[place] ^= int(rng.integers(1, 256))
    elif kind == "cut":
        del damaged[at : size if rng.random() < 0.2 else at + length]
    elif kind == "zero":
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    elif kind == "splice":
        source = whole if rng.random() < 0.3 else other
        start = at if rng.random() < 0.5 else int(rng.integers(0, len(source)))
        end = at + length if rng.random() < 0.7 else at  # replaced, or inserted
        damaged[at:end] = source[start : start + length]
    else:
        return _with_frames_moved(whole, other, rng, kind == "swap")
    return bytes(damaged)


def _with_frames_moved(whole, other, rng, same):
    """Frames cut out, repeated, or replaced by another recording's: the checksum of every frame is right.

    same: replaced by those with the same numbers, which only the MD5 of all samples tells.
    """
    starts, others = [*frame_starts(whole), len(whole)], [*frame_starts(other), len(other)]
    first, last = sorted(rng.choice(len(starts), 2, replace=False))
    choice = rng.random()
    if not same and choice < 0.4:
        return whole[: starts[first]] + whole[starts[last] :]
    if not same and choice < 0.7:
        return whole[: starts[last]] + whole[starts[first] :]
    begin = first if same else (first + 1 + int(rng.integers(0, len(others) - 2))) % (len(others) - 1)
    end = min(begin + last - first, len(others) - 1)
    return whole[: starts[first]] + other[others[min(begin, end)] : others[end]] + whole[starts[last] :]


def without_md5(whole):
    """The file as a program writes it that does not compute the MD5 of the samples (RFC 9639 §8.2: all zero)."""
    return whole[:26] + bytes(16) + whole[42:]


def frame_starts(whole):
    """Where the frames of a FLAC file of one fixed block size begin: in order of their numbers, which start at 0."""
    starts, at = [], 0
    while (at := whole.find(b"\xff\xf8", at)) >= 0:
        number, size = _coded_number(whole, at + 4)
        end = at + 4 + size + {6: 1, 7: 2}.get(whole[at + 2] >> 4, 0)
        if number == len(starts) and _crc8(whole[at:end]) == whole[end]:
            starts.append(at)
        at += 1
    return starts


def _coded_number(data, at):
    """(number, bytes) of a number coded like UTF-8; (-1, 0) if it is not one."""
    text = data[at : at + 4]
    for size in (1, 2, 3, 4):
        try:
            return ord(text[:size].decode()), size
        except (UnicodeDecodeError, TypeError):
            continue
    return -1, 0


def _crc8(data):
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ (0x07 if value & 0x80 else 0)) & 0xFF
    return value
