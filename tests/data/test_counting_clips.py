"""Single digits: what espeak says for training and for the test, and how clips are prepared."""

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra 'synth' is not installed")

from spectron.config import DataConfig, FeatureConfig
from spectron.data.counting import clips, raw_clips, utterances


def test_test_speech_is_unseen_and_voices_are_several():
    assert len(set(raw_clips.VOICES)) >= 4  # a voice guessed is right in a quarter of the cases
    rates, pitches = ({split: set(each[i]) for split, each in raw_clips.RATES_AND_PITCHES.items()} for i in (0, 1))
    for values in (rates, pitches):
        assert not values["test"] & (values["train"] | values["judge"])
        assert values["train"] < values["judge"]


def test_synthesised_utterances_keep_to_one_take(monkeypatch):
    """All digits of an utterance were read at one rate and pitch: the continuation's can be heard in the prompt."""
    monkeypatch.setattr(raw_clips, "VOICES", raw_clips.VOICES[:2])
    clips._load.cache_clear()
    loaded = clips.load_clips(DataConfig(clips="espeak"), FeatureConfig(), "train")
    takes = loaded.takes_of_speakers
    assert [len(each) for each in takes] == [9] * 2
    for speaker, each in enumerate(takes):
        for take in each:
            assert loaded.digits[take].tolist() == list(range(10))
            assert set(loaded.speaker_of[take]) == {speaker}
            assert len({loaded.names[clip].split("_", maxsplit=1)[1] for clip in take}) == 1
    clips._load.cache_clear()


def test_counting_with_synthesised_voices(monkeypatch):
    monkeypatch.setattr(raw_clips, "VOICES", raw_clips.VOICES[:2])
    monkeypatch.setitem(raw_clips.RATES_AND_PITCHES, "test", ((155,), (48,)))
    clips._load.cache_clear()
    data = DataConfig(clips="espeak", max_seconds=6.0)
    items = utterances.test_items(data, FeatureConfig(), repeats=1)
    assert len(items) == 60
    assert {e.speaker for e in items} == {voice.partition("+")[2] for voice in raw_clips.VOICES[:2]}
    assert all(1.0 < len(e.samples) / 16_000 < 6.0 for e in items)
    clips._load.cache_clear()


def test_trim_cuts_the_quiet_ends():
    """Between two seconds of noise 46 dB below it only the word stays, within a window of 25 ms at each end."""
    word = (10_000 * np.sin(np.arange(8000) / 5)).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 35, 16_000).astype(np.int16)
    assert 8000 <= len(clips.trim(np.concatenate([noise, word, noise]), 16_000)) <= 8000 + 2 * 400
    assert clips.trim(np.zeros(4, np.int16), 16_000).tolist() == [0] * 4
