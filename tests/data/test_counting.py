import dataclasses
import shutil

import numpy as np
import pytest
from data_helpers import with_data

from spectron.audio import wav
from spectron.config import DataConfig, FeatureConfig, TaskConfig
from spectron.data.counting import clips, utterances
from spectron.data.sources import make_source
from spectron.types import UserError


def source(experiment, kind, split="train", size=300, seed=1):
    return make_source(TaskConfig("t", kind, split, size=size), experiment.data, experiment.features, seed)


def digits_of(example):
    return tuple(utterances.WORDS.index(word) for word in example.text.split())


def test_thirty_sequences_two_of_each_step_held_out():
    assert len(set(utterances.SEQUENCES.values())) == 30
    assert utterances.SEQUENCES[2, 3] == (2, 5, 8, 1, 4, 7)
    assert sorted(k for _, k in utterances.HELD_OUT) == [1, 1, 2, 2, 3, 3]
    assert len(utterances.SEEN) == 24
    assert len(utterances.HELD_OUT_TRIPLES) == 12


def test_training_speech_never_holds_a_held_out_sequence(experiment):
    counted = {digits_of(e) for e in source(experiment, "counting")}
    assert counted == {utterances.SEQUENCES[key] for key in utterances.SEEN}
    for example in source(experiment, "random_digits"):
        digits = digits_of(example)
        triples = {digits[i : i + 3] for i in range(4)}
        assert len(digits) == 6
        assert not triples & utterances.HELD_OUT_TRIPLES
        assert example.scored_words == 3


def test_is_clean_looks_everywhere():
    prompt, continuation = (
        utterances.SEQUENCES[utterances.HELD_OUT[0]][:3],
        utterances.SEQUENCES[utterances.HELD_OUT[0]][3:],
    )
    assert not utterances.is_clean((0, *prompt, 0, 0))
    assert not utterances.is_clean((0, 0, 0, *continuation))
    assert utterances.is_clean((0, 0, 0, 0, 0, 0))
    assert utterances.is_held_out((*prompt, *continuation))
    assert not utterances.is_held_out((*continuation, *prompt))


def test_text_holds_all_thirty(experiment):
    texts = source(experiment, "counting_text")
    assert {digits_of(e) for e in texts} == set(utterances.SEQUENCES.values())
    assert all(len(e.samples) == 0 for e in texts)


def test_examples_are_a_pure_function_of_seed_and_number(experiment):
    a, b, other = (source(experiment, "random_digits", seed=s) for s in (1, 1, 2))
    list(b)  # what was asked before does not matter
    np.testing.assert_array_equal(a[7].samples, b[7].samples)
    assert a[7].id == b[7].id
    assert [e.text for e in a] != [e.text for e in other]


def test_test_items_are_every_sequence_by_every_speaker(experiment):
    items = utterances.test_items(experiment.data, experiment.features, repeats=2)
    assert len(items) == 30 * 2 * 2
    assert len({e.id for e in items}) == len(items)
    assert items[0].id == "counting/anna/012345/0"
    assert {(digits_of(e), e.speaker) for e in items} == {
        (d, s) for d in utterances.SEQUENCES.values() for s in ("anna", "bert")
    }
    again = utterances.test_items(experiment.data, dataclasses.replace(experiment.features), repeats=1)
    np.testing.assert_array_equal(again[5].samples, items[5].samples)
    np.testing.assert_array_equal(source(experiment, "counting", "test", 0, seed=9)[5].samples, items[5].samples)


def test_prompt_ends_in_the_quiet_after_the_third_digit(experiment):
    hop = experiment.features.hop
    for example in utterances.test_items(experiment.data, experiment.features, 1)[:20]:
        assert example.prompt_samples % hop == 0
        around = example.samples[example.prompt_samples - 100 : example.prompt_samples + 100].astype(float)
        assert 0 < np.abs(around).max() < 40  # quiet, not digital zero
        # Three tones before, three after: count the quiet gaps by their level.
        level = np.sqrt(np.convolve(example.samples.astype(float) ** 2, np.ones(400) / 400, "same"))
        gaps = np.flatnonzero(np.diff((level > 200).astype(int)) == -1)
        assert (gaps < example.prompt_samples).sum() == 3
        ends = np.asarray(example.word_ends)
        assert ends[2] < example.prompt_samples < ends[3]
        assert ends[-1] == len(example.samples)
        assert np.abs(gaps - ends[:5]).max() < 400  # half the window of the level


def test_test_speech_is_official_test_recordings_only(experiment):
    names = {
        split: set(clips.load_clips(experiment.data, experiment.features, split).names) for split in ("train", "test")
    }
    assert {n.split("_")[2] for n in names["test"]} == {"0", "1"}
    assert {n.split("_")[2] for n in names["train"]} == {"5", "6"}
    singles = utterances.test_clips(experiment.data, experiment.features)
    assert len(singles) == 40
    assert {e.text for e in singles} == set(utterances.WORDS)
    assert {e.id for e in singles} == names["test"]


def test_every_clip_is_levelled_and_training_varies_it(experiment):
    test = clips.load_clips(experiment.data, experiment.features, "test")
    levels = [np.sqrt(np.mean((test.get(c) / 32768) ** 2)) for c in range(len(test.names))]
    np.testing.assert_allclose(levels, clips.LEVEL_RMS, rtol=0.02)
    train = clips.load_clips(experiment.data, experiment.features, "train")
    np.testing.assert_allclose(train.lengths[0] / train.lengths[4], 1.1, rtol=0.01)
    peaks = [np.abs(e.samples).max() for e in source(experiment, "counting")]
    assert max(peaks) / min(peaks) > 1.5
    assert max(peaks) <= 0.06 * np.sqrt(2) * 10 ** (3 / 20) * 32768 * 1.2  # resampling overshoots


def test_prepared_clips_are_cached_and_keyed_by_content(experiment, clips_root, tmp_path, monkeypatch):
    root = tmp_path / "copy"
    shutil.copytree(clips_root, root)
    copied = with_data(experiment, root=str(root))
    reads = []
    monkeypatch.setattr(wav, "read", lambda path, rate, read=wav.read: reads.append(path) or read(path, rate))
    # The same contents elsewhere are found in the cache.
    clips.load_clips(experiment.data, experiment.features, "test")
    reads.clear()
    before = clips.load_clips(copied.data, experiment.features, "test")
    assert not reads
    shutil.copy(root / "recordings" / "0_anna_1.wav", root / "recordings" / "0_anna_0.wav")
    clips._load.cache_clear()
    after = clips.load_clips(copied.data, experiment.features, "test")
    assert len(reads) == 40
    assert after.lengths[0, after.names.index("0_anna_0")] != before.lengths[0, before.names.index("0_anna_0")]


def test_an_unwritable_cache_costs_time_only(experiment, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    clips._load.cache_clear()
    assert len(clips.load_clips(experiment.data, experiment.features, "test").names) == 40
    assert "not cached" in caplog.text
    clips._load.cache_clear()


def test_spoken_digits_for_judges(experiment):
    lengths = {len(digits_of(e)) for e in source(experiment, "spoken_digits", "test")}
    assert lengths == {1, 2, 3, 4, 5, 6}
    assert all(e.prompt_samples == len(e.samples) for e in source(experiment, "spoken_digits", size=20))


def test_mistakes_are_named(experiment, clips_root, tmp_path):
    cases = [
        (with_data(experiment, root=""), "data.root is not set"),
        (with_data(experiment, root=str(tmp_path)), "no folder 'recordings'"),
        (with_data(experiment, max_seconds=0.5), "raise them"),
    ]
    for wrong, says in cases:
        with pytest.raises(UserError, match=says):
            source(wrong, "counting")[0]
    with pytest.raises(UserError, match="not 'dev'"):
        source(experiment, "counting", split="dev")
    partial = tmp_path / "partial"
    shutil.copytree(clips_root, partial)
    for path in (partial / "recordings").glob("3_bert_*"):
        path.unlink()
    with pytest.raises(UserError, match="'bert' lack the digit 3"):
        source(with_data(experiment, root=str(partial)), "counting")
    clips._load.cache_clear()  # a process keeps the clips it has loaded
    wav.write(partial / "recordings" / "3_bert_5.wav", np.zeros(4000, np.int16), 8000)
    with pytest.raises(UserError, match="'3_bert_5' is silent"):
        source(with_data(experiment, root=str(partial)), "counting")


def test_free_spoken_digits(data_dir):
    data = DataConfig(root=str(data_dir / "fsdd"), max_seconds=8.0)
    singles = utterances.test_clips(data, FeatureConfig())
    assert len(singles) == 300
    assert {int(e.id.split("_")[2]) for e in singles} == {0, 1, 2, 3, 4}
    items = utterances.test_items(data, FeatureConfig(), repeats=2)
    assert len(items) == 360
    assert sum(utterances.is_held_out(digits_of(e)) for e in items) == 72
    # Only test recordings are joined: every item's first clip is one of them.
    firsts = {e.samples[:1000].tobytes() for e in singles if len(e.samples) >= 1000}
    assert all(e.samples[:1000].tobytes() in firsts for e in items)
