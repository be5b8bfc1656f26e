import dataclasses

import numpy as np
import pytest

from spectron.audio import spectrograms
from spectron.data.counting import utterances
from spectron.data.counting.clips import load_clips
from spectron.evaluation.counting import digit_judge, judges
from spectron.types import UserError
from spectron.utils.ctc import collapse
from spectron.vocoders.copy_synthesis import copy_synthesis


def test_judges_hear_what_they_were_not_trained_on(world, judges_dir):
    both = judges.get_judges(world, judges_dir)
    items = utterances.test_items(world.data, world.features, repeats=1)
    wanted = [[utterances.WORDS.index(word) for word in item.text.split()] for item in items]
    heard = both.asr.hear([item.samples for item in items])
    assert np.mean([a == b for a, b in zip(heard, wanted, strict=True)]) > 0.9
    clips = utterances.test_clips(world.data, world.features)
    assert both.speaker.name([c.samples for c in clips]) == [c.speaker for c in clips]
    # What a recording is heard as does not depend on its neighbours.
    assert both.asr.hear([items[7].samples]) == [heard[7]]
    copies = copy_synthesis([items[7].samples], world.features)
    assert both.asr.hear(copies) == [wanted[7]]


def test_nothing_is_heard_in_nothing(world, judges_dir):
    both = judges.get_judges(world, judges_dir)
    nothing = [np.zeros(0, np.int16), np.zeros(50, np.int16), np.zeros(16000, np.int16)]
    assert both.asr.hear(nothing) == [[], [], []]
    assert both.speaker.name(nothing)[:2] == ["", ""]
    assert both.asr.hear([]) == both.speaker.name([]) == []


def test_judges_are_kept_and_trained_anew_for_other_clips(world, judges_dir, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(judges, "train_judges", fail)
    judges.get_judges(world, judges_dir)
    monkeypatch.setattr(judges, "fingerprint", lambda _: "other")
    with pytest.raises(AssertionError, match="trained again"):
        judges.get_judges(world, judges_dir)


def test_half_written_judges_are_trained_again(world, judges_dir, tmp_path, monkeypatch):
    trained = judges.get_judges(world, judges_dir)
    (tmp_path / "judges.json").write_text('{"version": 1')
    monkeypatch.setattr(judges, "train_judges", lambda *_: (trained.asr, trained.speaker))
    judges.get_judges(world, tmp_path)
    assert (tmp_path / "judges.json").read_bytes() == (judges_dir / "judges.json").read_bytes()
    (tmp_path / "digits.npz").unlink()
    judges.get_judges(world, tmp_path)
    assert (tmp_path / "digits.npz").is_file()
    # Others were trained for the same folder, and killed when one of theirs was written.
    monkeypatch.setattr(judges, "train_judges", lambda *_: pytest.fail("trained again"))
    judges.get_judges(world, tmp_path)
    stranger = digit_judge.DigitJudge({name: value + 1 for name, value in trained.asr.weights.items()})
    for damage in (lambda path: stranger.save(path), lambda path: path.write_bytes(path.read_bytes()[:100])):
        damage(tmp_path / "digits.npz")
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            judges.get_judges(world, tmp_path)


def test_another_sample_rate_is_refused(world, tmp_path):
    slow = dataclasses.replace(world, features=dataclasses.replace(world.features, sample_rate=8000))
    with pytest.raises(UserError, match="sample_rate=8000"):
        judges.get_judges(slow, tmp_path)


def test_a_training_row_says_where_its_digits_are(world):
    clips = load_clips(world.data, world.features, "train")
    joiner = digit_judge.Joiner(clips)
    row = joiner.batch(1, 2)
    assert np.array_equal(joiner.batch(1, 2).samples, row.samples), "a pure function of (seed, step)"
    for labels, spoken, count in zip(row.labels, row.digits, row.spoken, strict=True):
        assert collapse(labels) == spoken[:count].tolist()
        assert count >= 3 and not spoken[count:].any()


def test_distance_ignores_timing_but_not_content():
    a = np.repeat(np.eye(4, 8, dtype=np.float32), 5, axis=0)
    slower = np.repeat(np.eye(4, 8, dtype=np.float32), 9, axis=0)
    assert spectrograms.distance(a, slower) == pytest.approx(0, abs=1e-6)
    assert spectrograms.distance(a, a[::-1]) > 0.05
    assert np.isnan(spectrograms.distance(a, a[:0]))


def test_log_mels_do_not_depend_on_company(world):
    rng = np.random.default_rng(0)
    recordings = [rng.integers(-3000, 3000, n).astype(np.int16) for n in (16000, 3000, 0)]
    together = spectrograms.log_mels(recordings, world.features)
    assert [len(m) for m in together] == [80, 15, 0]
    np.testing.assert_allclose(together[1], spectrograms.log_mels([recordings[1]], world.features)[0], atol=1e-4)
