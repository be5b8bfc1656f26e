"""Which files of a folder are audio: links, suffixes, and what cannot be read."""

import numpy as np
import pytest
import soundfile

from spectron.audio.finding import find_files, passed_over, recordings_in
from spectron.types import UserError

READABLE = ("wav", "WAV", "wave", "flac", "FLAC", "aiff", "aif", "w64", "ogg", "mp3", "au", "caf", "rf64")
FORMATS = {"wave": "WAV", "aif": "AIFF", "opus": "OGG", "sph": "NIST"}


def sound(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix[1:].lower()
    soundfile.write(path, np.zeros(800, np.int16), 16_000, format=FORMATS.get(kind, kind.upper()), **options)


def names(root, paths):
    return sorted(str(path.relative_to(root)) for path in paths)


def test_every_format_that_libsndfile_reads_is_taken(tmp_path):
    for suffix in READABLE:
        sound(tmp_path / f"{suffix}.{suffix}")
    sound(tmp_path / "opus.opus", subtype="OPUS")
    sound(tmp_path / "sphere.sph")
    (tmp_path / "shorten.sph").write_bytes(b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\n")
    for name in ("a.m4a", "b.M4A", "c.webm", "d.aac", "e.wma", "f.amr", "text.txt", "vocabulary.voc", ".hidden.wav"):
        (tmp_path / name).write_bytes(b"x")
    found = find_files(tmp_path)
    readable = {*(f"{suffix}.{suffix}" for suffix in READABLE), "opus.opus", "sphere.sph"}
    assert set(names(tmp_path, found.audio)) == readable
    assert names(tmp_path, found.others) == ["text.txt", "vocabulary.voc"]
    words = passed_over(found.unreadable)
    assert words.startswith("7 files passed over: 2 .m4a, ") and "1 .sph" in words
    assert f"the first: {tmp_path / 'a.m4a'}" in words and words.endswith("convert them to WAV or FLAC.")
    assert passed_over([]) == ""


def test_links_are_followed_and_each_folder_is_found_once(tmp_path):
    root = tmp_path / "root"
    sound(root / "a.wav")
    sound(root / "b" / "c.wav")
    sound(tmp_path / "far" / "d.wav")
    sound(tmp_path / "far" / "e" / "f.wav")
    (root / "aa").symlink_to(root / "b")  # comes before b and is the same folder
    (root / "far").symlink_to(tmp_path / "far")
    (root / "again").symlink_to(tmp_path / "far" / "e")
    (root / "b" / "ring").symlink_to(root)
    (tmp_path / "far" / "e" / "ring").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "e" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "broken.wav").symlink_to(root / "gone.wav")
    (root / "linked.wav").symlink_to(root / "a.wav")
    wanted = ["a.wav", "again/f.wav", "b/c.wav", "broken.wav", "far/d.wav", "linked.wav"]
    assert names(root, find_files(root).audio) == wanted
    others = find_files(root, leave_out=(root / "b").resolve())
    assert names(root, others.audio) == [name for name in wanted if name != "b/c.wav"]


def test_many_rings_end(tmp_path):
    for name in "abcdef":
        (tmp_path / name).mkdir()
        sound(tmp_path / name / f"{name}.wav")
        for other in "abcdef":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    assert len(find_files(tmp_path).audio) == 6


def test_one_recording_a_stem(tmp_path):
    for name in ("a.wav", "a.FLAC", "b.WAV", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert {stem: path.name for stem, path in recordings_in(tmp_path).items()} == {"a": "a.FLAC", "b": "b.WAV"}
    assert recordings_in(tmp_path / "gone") == {}


def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone' cannot be read"):
        find_files(tmp_path / "gone")
