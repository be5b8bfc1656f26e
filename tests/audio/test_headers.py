"""Headers of audio files at random: a recording is read, or refused in a sentence; nothing crashes or hangs."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectron.audio import containers, wav
from spectron.data.measuring import measure
from spectron.types import UserError

SAMPLES = (np.sin(np.arange(4_000) / 7) * 9_000).astype(np.int16)
KINDS = (("WAV", "PCM_16"), ("WAVEX", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("W64", "PCM_16"),
         ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"))  # fmt: skip
OPTIONS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def encode(kind, subtype):
    file = io.BytesIO()
    soundfile.write(file, SAMPLES, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


FILES = {pair: encode(*pair) for pair in KINDS}


def one_sentence(text):
    assert "'it.wav'" in text and "\n" not in text
    return text


def read(data):
    """What is read, or the sentence that refuses it."""
    try:
        samples = wav.decode_bytes(data, "it.wav")
    except UserError as error:
        return one_sentence(str(error))
    assert samples.dtype == np.int16 and samples.ndim == 1 and samples.size
    return samples


@pytest.mark.parametrize("pair", KINDS, ids="-".join)
@given(changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=4))
@OPTIONS
def test_bytes_of_the_header_at_random(pair, changes, tmp_path):
    data = bytearray(FILES[pair])
    for place, value in changes:
        data[place % len(data)] = value
    read(bytes(data))
    path = tmp_path / "it.wav"
    path.write_bytes(data)
    measure(str(path))
    wav.has_no_samples(bytes(data))


@pytest.mark.parametrize("pair", KINDS, ids="-".join)
@given(share=st.floats(0, 0.97))
@OPTIONS
def test_a_file_that_ends_too_early_is_never_taken_for_a_whole_one(pair, share):
    data = FILES[pair]
    result = read(data[: int(share * len(data))])
    assert isinstance(result, str), f"{len(result)} of {len(SAMPLES)} samples were read"


@given(riff=st.integers(0, 2**32 - 1), size=st.sampled_from([0, 2**32 - 1, 2**31 - 1]), kind=st.sampled_from(KINDS[:2]))
@OPTIONS
def test_sizes_that_a_pipe_left_unknown(riff, size, kind):
    data = FILES[kind]
    at = data.index(b"data")
    streamed = b"RIFF" + struct.pack("<I", riff) + data[8 : at + 4] + struct.pack("<I", size) + data[at + 8 :]
    result = read(streamed)
    if isinstance(result, str):
        assert "cut off" in result and riff + 8 - len(data) > containers.SLACK_BYTES  # more is stated than is there
    else:
        np.testing.assert_array_equal(result, SAMPLES)


@given(length=st.integers(0, 2**36 - 1))
@OPTIONS
def test_a_length_in_flac_is_the_files_or_it_is_refused(length):
    data = FILES["FLAC", "PCM_16"]
    info = int.from_bytes(data[18:26], "big") >> 36 << 36 | length
    result = read(data[:18] + info.to_bytes(8, "big") + data[26:])
    if isinstance(result, str):
        assert length not in (0, len(SAMPLES))
    else:
        np.testing.assert_array_equal(result, SAMPLES)
