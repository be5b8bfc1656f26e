"""Reading what users have, refusing what is no audio, and writing whole files."""

import errno
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectron.audio import wav
from spectron.config import FeatureConfig
from spectron.data.measuring import measure
from spectron.types import UserError

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_U8"),
    ("WAV", "PCM_24"),
    ("WAV", "PCM_32"),
    ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"),
    ("WAV", "ULAW"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def sine(rate: int, seconds: float = 0.5, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def encode(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def strength(samples: np.ndarray, hz: float) -> float:
    """The share of the energy that stands at `hz`, of int16 at 16 kHz."""
    power = np.square(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))
    near = np.abs(np.fft.rfftfreq(len(samples), 1 / 16_000) - hz) < 20
    return power[near].sum() / power.sum()


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_every_format_and_rate_becomes_16_khz(tmp_path, kind, subtype, rate):
    if subtype == "OPUS" and rate == 44_100:  # Opus knows no 44.1 kHz
        rate = 24_000
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(encode(sine(rate), rate, kind, subtype))
    samples = wav.read(path)
    assert samples.dtype == np.int16 and samples.ndim == 1
    # MP3 pads whole blocks of 1152 samples at the file's own rate.
    slack = 3 * 1152 * 16_000 / rate if kind == "MP3" else 1
    assert 0 <= len(samples) - 8_000 <= slack
    middle = samples[2_000:6_000].astype(float)  # lossy formats ring where the tone begins and ends
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(16_384 / np.sqrt(2), rel=0.05)
    assert strength(samples, 440.0) > 0.98


@pytest.mark.parametrize(
    ("kind", "channels"), [("WAV", 2), ("WAV", 7), ("FLAC", 2), ("FLAC", 7), ("OGG", 2), ("OGG", 7), ("MP3", 2)]
)
def test_channels_are_averaged(kind, channels):
    loud_first = np.zeros((8_000, channels))
    loud_first[:, 0] = sine(16_000)
    samples = wav.decode_bytes(encode(loud_first, 16_000, kind), "tone")
    assert np.abs(samples[:8_000]).max() == pytest.approx(16_384 / channels, rel=0.1)


def test_16_bit_files_at_16_khz_are_read_bit_for_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    np.testing.assert_array_equal(wav.read(tmp_path / "a.flac"), samples)


def test_another_target_rate():
    assert len(wav.decode_bytes(encode(sine(16_000), 16_000), "tone", 24_000)) == 12_000


def test_floats_over_full_scale_clip_and_do_not_wrap():
    samples = wav.decode_bytes(encode(4 * sine(16_000), 16_000, "WAV", "FLOAT"), "loud")
    wanted = np.clip(4 * sine(16_000), -1, 1) * 32768
    np.testing.assert_allclose(samples, np.minimum(wanted, 32767), atol=0.6)


def test_long_files_are_read_block_by_block(monkeypatch):
    rng = np.random.default_rng(0)
    data = encode(rng.integers(-3000, 3000, size=(5000, 2)).astype(np.int16), 16_000)
    whole = wav.decode_bytes(data, "whole")
    monkeypatch.setattr(wav, "_BLOCK_SAMPLES", 777)
    np.testing.assert_array_equal(wav.decode_bytes(data, "blocks"), whole)


def test_real_recordings(data_dir):
    opus = sorted(Path(data_dir, "librispeech_spk251").rglob("*.opus"))[:2]
    flac = sorted(Path(data_dir, "fsdd", "recordings").glob("*.flac"))[:2]
    assert opus and flac
    for path in opus + flac:
        samples = wav.read(path)
        assert len(samples) == pytest.approx(16_000 * soundfile.info(path).duration, abs=1)
        wav.check_prompt(samples, str(path), FeatureConfig(), 0.1, 60.0)


def one_sentence(error: pytest.ExceptionInfo, name: str) -> None:
    text = str(error.value)
    assert name in text and text.endswith(".") and "\n" not in text and "Error" not in text


MP4 = b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(range(256)) * 64


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (MP4, "not audio"),
        (b"RIFF", "not audio"),
        (b"hello\n" * 500, "not audio"),
        (np.random.default_rng(0).bytes(20_000), "not audio"),
        (encode(np.zeros(0), 16_000), "no samples"),
        (encode(np.array([0.1, np.nan, 0.1]), 16_000, "WAV", "FLOAT"), "NaN"),
        (encode(np.array([[np.inf, -np.inf]] * 9), 16_000, "WAV", "DOUBLE"), "NaN"),
    ],
    ids=["empty", "video", "half a header", "text", "noise", "no samples", "NaN", "infinity"],
)
def test_what_is_no_recording_is_refused_in_a_sentence(tmp_path, content, word):
    path = tmp_path / "holiday.wav"
    path.write_bytes(content)
    with pytest.raises(UserError, match=word) as error:
        wav.read(path)
    one_sentence(error, str(path))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(UserError, match="does not exist") as error:
        wav.read(tmp_path / "no.wav")
    one_sentence(error, str(tmp_path / "no.wav"))
    with pytest.raises(UserError, match="cannot be opened") as error:
        wav.read(tmp_path)
    one_sentence(error, str(tmp_path))


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "MP3"])
def test_half_a_file_is_not_taken_for_the_whole(kind, tmp_path):
    data = encode(sine(16_000, 2.0), 16_000, kind)
    assert len(wav.decode_bytes(data, "whole")) == 32_000
    with pytest.raises(UserError, match="cut off: it holds less than its header states") as error:
        wav.decode_bytes(data[: len(data) // 2], "half")
    one_sentence(error, "half")
    (tmp_path / "half").write_bytes(data[: len(data) // 2])
    assert measure(str(tmp_path / "half")).error in ("truncated", "unreadable")


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("CAF", "PCM_16")])
def test_half_a_file_without_a_stated_length_is_refused_too(kind, subtype):
    data = encode(sine(16_000, 2.0), 16_000, kind, subtype)
    with pytest.raises(UserError, match=r"cut off|damaged") as error:
        wav.decode_bytes(data[: len(data) // 2], "half")
    one_sentence(error, "half")


def test_a_few_missing_bytes_are_a_program_that_counts_wrongly():
    data = encode(sine(16_000, 2.0), 16_000, "WAV")
    assert len(wav.decode_bytes(data[:-8], "short")) == 31_996


def with_data_size(data, size, riff):
    at = data.index(b"data")
    data = data[: at + 4] + size.to_bytes(4, "little") + data[at + 8 :]
    return data[:4] + riff.to_bytes(4, "little") + data[8:]


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_wav_that_was_written_to_a_pipe_is_read_whole(kind, size, tmp_path):
    data = encode(sine(16_000, 2.0), 16_000, kind)
    streamed = with_data_size(data, size, min(size + 36, 0xFFFFFFFF) if size else 0)
    np.testing.assert_array_equal(wav.decode_bytes(streamed, "pipe"), wav.decode_bytes(data, "file"))
    (tmp_path / "pipe.wav").write_bytes(streamed)
    assert wav.seconds_of(tmp_path / "pipe.wav") == 2.0
    assert measure(str(tmp_path / "pipe.wav")).seconds == 2.0 and not measure(str(tmp_path / "pipe.wav")).error
    assert not wav.has_no_samples(streamed)


def test_a_wav_file_without_samples_stays_one():
    empty = with_data_size(encode(np.zeros(1), 16_000)[:44], 0, 48) + b"LIST\x04\x00\x00\x00INFO"
    assert wav.has_no_samples(empty)
    with pytest.raises(UserError, match="holds no samples"):
        wav.decode_bytes(empty, "empty")


@pytest.mark.parametrize("kind", ["WAV", "OGG", "FLAC", "AIFF", "W64"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])  # libsndfile finds no samples in many of them
def test_a_recording_that_was_cut_off_is_not_one_that_says_nothing(kind, share):
    data = encode(sine(16_000, 1.0), 16_000, kind)
    assert not wav.has_no_samples(data[: int(share * len(data))])


def streamed_flac(samples, rate=16_000):
    """FLAC as an encoder writes it that cannot go back to state the length."""
    data = encode(samples, rate, "FLAC")
    info = int.from_bytes(data[18:26], "big") >> 36 << 36
    return data[:18] + info.to_bytes(8, "big") + data[26:], data


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("seconds", [0.01, 0.5, 2.0])
def test_flac_without_a_stated_length_is_read_whole(rate, seconds, tmp_path):
    streamed, data = streamed_flac(sine(rate, seconds), rate)
    np.testing.assert_array_equal(wav.decode_bytes(streamed, "stream"), wav.decode_bytes(data, "file"))
    (tmp_path / "stream.flac").write_bytes(streamed)
    assert wav.seconds_of(tmp_path / "stream.flac") == pytest.approx(seconds, abs=1 / rate)
    assert measure(str(tmp_path / "stream.flac")).seconds == pytest.approx(seconds, abs=1e-4)
    tagged = streamed + b"TAG" + bytes(125)
    np.testing.assert_array_equal(wav.decode_bytes(tagged, "tagged"), wav.decode_bytes(data, "file"))
    (tmp_path / "half.flac").write_bytes(streamed[: len(streamed) // 2])
    with pytest.raises(UserError, match="cut off"):
        wav.read(tmp_path / "half.flac")
    with pytest.raises(OSError, match=r"cut off|lost sync"):
        wav.seconds_of(tmp_path / "half.flac")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_where_one_channel_is_the_other_inverted_one_is_taken(kind):
    one = sine(16_000, 2.0)
    samples = wav.decode_bytes(encode(np.stack([one, -one], 1), 16_000, kind), "inverted")
    assert strength(samples, 440.0) > 0.98
    assert np.abs(samples).max() > 0.9 * np.abs(wav.decode_bytes(encode(one, 16_000), "one")).max()


def test_prompts_that_cannot_be_answered(clips):
    config = FeatureConfig()
    wav.check_prompt(clips.voiced(3.0), "good.wav", config, 1.0, 4.0)
    ten_minutes = np.tile(clips.voiced(6.0), 100)
    for samples, word in (
        (clips.voiced(0.1), "too short"),
        (ten_minutes, "too long"),
        (np.zeros(48_000, np.int16), "silent"),
        (np.full(48_000, -32, np.int16), "silent"),
    ):
        with pytest.raises(UserError, match=word) as error:
            wav.check_prompt(samples, "bad.wav", config, 1.0, 4.0)
        one_sentence(error, "bad.wav")
    wav.check_prompt(np.full(48_000, -32768, np.int16), "loudest.wav", config, 1.0, 4.0)


def test_ten_minutes_of_stereo_are_read(tmp_path):
    soundfile.write(tmp_path / "long.flac", np.zeros((600 * 8_000, 2), np.int16), 8_000)
    assert len(wav.read(tmp_path / "long.flac")) == 9_600_000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_write_and_read_back(tmp_path, suffix):
    samples = np.random.default_rng(0).integers(-32768, 32768, 4000).astype(np.int16)
    path = tmp_path / "made" / f"a{suffix}"
    wav.write(path, samples, 16_000)
    np.testing.assert_array_equal(wav.read(path), samples)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_writing_over_a_file_replaces_it(tmp_path):
    wav.write(tmp_path / "a.wav", np.ones(50, np.int16), 16_000)
    wav.write(tmp_path / "a.wav", np.zeros(20, np.int16), 16_000)
    assert wav.read(tmp_path / "a.wav").tolist() == [0] * 20


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    wav.write(path, np.ones(50, np.int16), 16_000)

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left") as error:
        wav.write(path, np.zeros(20, np.int16), 16_000)
    one_sentence(error, str(path))
    assert wav.read(path).tolist() == [1] * 50
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_places_and_names_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="Cannot write") as error:
        wav.write(tmp_path / "file" / "a.wav", np.zeros(9, np.int16), 16_000)
    one_sentence(error, "a.wav")
    with pytest.raises(UserError, match="suffix"):
        wav.write(tmp_path / "a.txt", np.zeros(9, np.int16), 16_000)


def flac(samples, rate=16_000, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


def test_flac_is_decoded_to_the_same_samples_as_by_libsndfile(data_dir):
    pytest.importorskip("miniaudio", reason="the extra 'data' is not installed")
    rng = np.random.default_rng(0)
    made = [
        flac(rng.integers(-32768, 32768, size).astype(np.int16), rate) for size, rate in ((1, 8000), (70_000, 48_000))
    ]
    real = [path.read_bytes() for path in sorted((data_dir / "librilight_like").rglob("*.flac"))]
    for data in made + real:
        samples, rate = wav.decode_flac(data)
        expected, expected_rate = soundfile.read(io.BytesIO(data), dtype="int16")
        assert rate == expected_rate
        np.testing.assert_array_equal(samples, expected)
        np.testing.assert_array_equal(wav.decode_bytes(data, "x", rate), expected)


def test_without_miniaudio_libsndfile_reads_the_same(monkeypatch):
    data = flac((np.random.default_rng(0).normal(size=40_000) * 1000).astype(np.int16))
    expected = wav.decode_bytes(data, "x")
    monkeypatch.setitem(sys.modules, "miniaudio", None)
    assert wav.decode_flac(data) is None
    np.testing.assert_array_equal(wav.decode_bytes(data, "x"), expected)


def test_flac_that_is_damaged_or_of_another_kind_is_left_to_libsndfile():
    rng = np.random.default_rng(0)
    whole = flac((rng.normal(size=40_000) * 1000).astype(np.int16))
    stereo = flac(np.zeros((100, 2), np.int16))
    deep = flac(np.zeros(100), subtype="PCM_24")
    huge = whole[:18] + (int.from_bytes(whole[18:26], "big") | ((1 << 36) - 1)).to_bytes(8, "big") + whole[26:]
    for data in (b"", b"fLaC", b"RIFF" + whole[4:], whole[: len(whole) // 2], whole[:60], stereo, deep, huge):
        assert wav.decode_flac(data) is None
    for at in rng.integers(100, len(whole), 20):  # a bit in a frame: its checksum tells
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        assert wav.decode_flac(bytes(broken)) is None
