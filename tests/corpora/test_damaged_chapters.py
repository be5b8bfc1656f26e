import logging

import numpy as np
import pytest
import soundfile
from benchmarks import damaged_chapters
from damaged_flac import damage, frame_starts, without_md5
from librilight_tree import RATE, FakeFactory, add_chapter, talk

from spectron.audio import wav
from spectron.corpora.labelling import label
from spectron.corpora.labels import labels_path, read_labels
from spectron.corpora.librilight import BadChapter, Recording
from spectron.data.measuring import measure
from spectron.data.shards import Utterance, encode_flac, shard_path, write_shard
from spectron.types import UserError


@pytest.mark.parametrize("md5", [True, False])
def test_no_utterance_of_a_damaged_chapter_holds_foreign_sound(tmp_path, md5):
    results = damaged_chapters.run(tmp_path, 18, seed=1, md5=md5)
    counts = {f"{name}, {kind}": each for name, x in results.items() for kind, each in x["counts"].items()}
    assert all(not foreign for _, foreign in counts.values()), counts
    for name, unit in (("librilight", "chapters"), ("libriheavy", "utterances")):
        assert any(reason.startswith(f"{unit} whose audio") for reason in results[name]["left out"])


@pytest.mark.slow
def test_a_thousand_damaged_chapters(tmp_path):
    logging.disable(logging.WARNING)
    results = damaged_chapters.run(tmp_path, 1000)
    logging.disable(logging.NOTSET)
    assert all(not foreign for x in results.values() for _, foreign in x["counts"].values()), results


@pytest.fixture
def chapter(tmp_path):
    """(its path, its samples, its bytes with two seconds cut out between frames, which leaves it decodable)."""
    samples = talk([(1, 29)], 30)
    path = add_chapter(tmp_path, "small/1/b/c", samples)
    whole = path.read_bytes()
    starts = frame_starts(whole)
    return path, samples, whole[: starts[40]] + whole[starts[48] :]


def test_after_an_error_reading_goes_on_at_the_right_place(chapter, monkeypatch):
    """A decoder that stopped at damage stands anywhere: what is read next begins with a seek."""
    path, samples, _ = chapter
    recording = Recording(str(path))
    real = soundfile.SoundFile.read

    def fails(file, *arguments, **settings):
        real(file, 100_000, dtype="int16")
        raise soundfile.LibsndfileError(1)

    with monkeypatch.context() as patch:
        patch.setattr(soundfile.SoundFile, "read", fails)
        with pytest.raises(BadChapter, match=r"damaged"):
            recording.read(10_000, 20_000)
    np.testing.assert_array_equal(recording.read(30_000, 90_000), samples[30_000:90_000])
    recording.close()


@pytest.mark.parametrize("md5", [True, False])
def test_a_file_that_decodes_to_other_samples_is_damaged_for_every_reader(chapter, md5):
    path, _, holed = chapter
    undamaged = path.read_bytes()
    path.write_bytes(undamaged if md5 else without_md5(undamaged))
    assert wav.damage_of(path) == ""
    assert measure(str(path)).error == ""
    two = [frame_starts(undamaged)[i] for i in (10, 11, 12)]
    swapped = undamaged[: two[0]] + undamaged[two[1] : two[2]] + undamaged[two[0] : two[1]] + undamaged[two[2] :]
    for content in (swapped, holed):
        path.write_bytes(content if md5 else without_md5(content))
        assert wav.damage_of(path) in ("damaged", "cut off")
        assert measure(str(path)).error in ("unreadable", "truncated")
        with pytest.raises(BadChapter, match=r"damaged|breaks off"):
            Recording(str(path))
        with pytest.raises(UserError, match=r"damaged|cut off"):
            wav.read(path)
        with pytest.raises(UserError, match=r"damaged|cut off"):
            wav.read(path, 8000)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_undamaged_file_of_any_kind_is_whole(tmp_path, subtype, channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (40_000, channels))
    soundfile.write(tmp_path / "a.flac", samples, 44_100, subtype=subtype)
    assert wav.damage_of(tmp_path / "a.flac") == ""
    assert len(wav.read(tmp_path / "a.flac")) == pytest.approx(40_000 * 16 / 44.1, abs=1)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[30] ^= 1  # of the MD5
    (tmp_path / "a.flac").write_bytes(content)
    assert wav.damage_of(tmp_path / "a.flac") == "damaged"


@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3"])
def test_other_formats_are_checked_for_their_length(tmp_path, suffix):
    wav.write(tmp_path / f"a.{suffix}", talk([(0, 9)], 10), RATE)
    assert wav.damage_of(tmp_path / f"a.{suffix}") == ""
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: len(content) // 3])
    assert wav.damage_of(tmp_path / f"a.{suffix}") in ("cut off", "damaged")


def test_an_utterance_that_decodes_to_other_samples_is_not_labelled(tmp_path):
    samples = talk([(0, 5)], 5)
    whole = encode_flac(samples, RATE)
    foreign = damage("swap", whole, encode_flac(talk([(0, 5)], 5, seed=1), RATE), np.random.default_rng(2))
    made = [Utterance(f"u{i}", "s", "b", audio, RATE, len(samples)) for i, audio in enumerate((whole, foreign))]
    write_shard(shard_path(tmp_path / "shards", 0), made)
    label(tmp_path / "shards", tmp_path / "labels", FakeFactory(tmp_path / "log"), "fake", 4, ("--runner", "inline"))
    texts = [each.text for each in read_labels(labels_path(tmp_path / "labels", 0))]
    assert texts[0] and not texts[1]
