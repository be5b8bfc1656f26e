"""What is measured of a recording, and that it is measured once."""

import os

import numpy as np
import pytest
import soundfile

from spectron.data.measuring import Sound, measure, measure_all

RATE = 16_000
TONE = 0.5 * np.sin(np.arange(2 * RATE) * 0.1)


def write(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return str(path)


def test_levels_lengths_and_silence(tmp_path):
    sound = measure(write(tmp_path / "a.wav", np.concatenate([np.zeros(RATE), TONE, np.zeros(RATE)]), 16_000))
    assert (sound.seconds, sound.sample_rate, sound.channels, sound.error) == (4.0, 16_000, 1, "")
    assert sound.peak == pytest.approx(0.5, abs=0.01)
    assert sound.level == pytest.approx(-9, abs=0.2)  # of a sine with a peak of −6 dBFS
    assert (sound.start, sound.end) == (pytest.approx(1.0, abs=0.03), pytest.approx(1.0, abs=0.03))
    assert sound.silent == pytest.approx(0.5, abs=0.02)
    assert sound.clipped == 0


def test_clipping_is_counted_in_every_channel(tmp_path):
    loud = np.clip(4 * TONE, -1, 1)
    assert measure(write(tmp_path / "a.wav", loud)).clipped > 0.5
    assert 0.25 < measure(write(tmp_path / "b.wav", np.stack([loud, TONE], axis=1))).clipped < 0.5
    assert measure(write(tmp_path / "c.ogg", TONE / np.abs(TONE).max() * 0.9)).clipped == 0


def test_the_same_samples_in_another_format_have_the_same_digest(tmp_path):
    samples = (TONE * 30_000).astype(np.int16)
    same = [measure(write(tmp_path / name, samples)).digest for name in ("a.wav", "a.flac")]
    assert same[0] == same[1] != measure(write(tmp_path / "b.wav", samples[1:])).digest


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "film.wav").write_bytes(b"\0\0\0 ftypisom" * 50)
    names = {"empty.wav": "empty", "film.wav": "unreadable", "gone.wav": "unreadable"}
    whole = (tmp_path / "cut.wav", tmp_path / "cut.flac")
    for path in whole:
        write(path, np.random.default_rng(0).normal(size=4 * RATE) * 0.1)
        assert measure(str(path)).error == ""
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write(tmp_path / "nan.wav", np.full(RATE, np.nan), subtype="FLOAT")
    write(tmp_path / "nothing.wav", np.zeros(0))
    names |= {"cut.wav": "truncated", "nan.wav": "unreadable", "nothing.wav": "empty"}
    assert {name: measure(str(tmp_path / name)).error for name in names} == names
    assert measure(str(tmp_path / "cut.flac")).error in ("truncated", "unreadable")


def test_a_long_file_is_read_in_blocks_with_the_same_result(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", np.concatenate([TONE, 0 * TONE, TONE]))
    whole = measure(path)
    monkeypatch.setattr("spectron.data.measuring.BLOCK_SAMPLES", 5_000)
    assert measure(path) == whole


def test_measurements_are_kept_until_a_file_changes(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.wav", TONE[i:]) for i in range(3)]
    cache = tmp_path / "out" / "measured.jsonl"
    first = measure_all(paths, cache)
    with cache.open("a") as file:
        file.write('["half a li')  # a run that was killed
    write(paths[1], TONE[:RATE])
    os.utime(paths[1], (1, 1))
    calls = []
    monkeypatch.setattr("spectron.data.measuring.measure", lambda path: calls.append(path) or Sound(seconds=7.0))
    again = measure_all(paths, cache)
    assert calls == [paths[1]]
    assert again == [first[0], Sound(seconds=7.0), first[2]]
    calls.clear()
    assert measure_all(paths, cache) == again
    assert not calls
