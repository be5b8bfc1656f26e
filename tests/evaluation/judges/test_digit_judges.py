import dataclasses

import numpy as np
import pytest

from spectron.audio import spectrograms
from spectron.data.counting import utterances
from spectron.data.counting.clips import load_clips
from spectron.evaluation.judges import digit_judges, digits
from spectron.types import UserError
from spectron.vocoders.copy_synthesis import copy_synthesis


@pytest.mark.parametrize(
    ("best", "heard"),
    [([0, 0, 0], []), ([], []), ([3, 3, 0, 3], [2, 2]), ([1, 1, 2, 2], [0, 1]), ([0, 10, 0, 0, 1], [9, 0])],
)
def test_collapse(best, heard):
    assert digits.collapse(np.array(best, int)) == heard


def test_judges_hear_what_they_were_not_trained_on(world, judges_dir):
    both = digit_judges.get_judges(world.data, world.features, judges_dir)
    items = utterances.test_items(world.data, world.features, repeats=1)
    wanted = [[utterances.WORDS.index(word) for word in item.text.split()] for item in items]
    heard = both.digits.hear([item.samples for item in items])
    assert np.mean([a == b for a, b in zip(heard, wanted, strict=True)]) > 0.9
    clips = utterances.test_clips(world.data, world.features)
    assert both.speakers.name([c.samples for c in clips]) == [c.speaker for c in clips]
    # What a recording is heard as does not depend on its neighbours.
    assert both.digits.hear([items[7].samples]) == [heard[7]]
    copies = copy_synthesis([items[7].samples], world.features)
    assert both.digits.hear(copies) == [wanted[7]]


def test_nothing_is_heard_in_nothing(world, judges_dir):
    both = digit_judges.get_judges(world.data, world.features, judges_dir)
    nothing = [np.zeros(0, np.int16), np.zeros(50, np.int16), np.zeros(16000, np.int16)]
    assert both.digits.hear(nothing) == [[], [], []]
    assert both.speakers.name(nothing)[:2] == ["", ""]
    assert both.digits.hear([]) == both.speakers.name([]) == []


def test_judges_are_kept_and_trained_anew_for_other_clips(world, judges_dir, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(digit_judges, "train_judges", fail)
    digit_judges.get_judges(world.data, world.features, judges_dir)
    monkeypatch.setattr(digit_judges, "fingerprint", lambda _: "other")
    with pytest.raises(AssertionError, match="trained again"):
        digit_judges.get_judges(world.data, world.features, judges_dir)


def test_half_written_judges_are_trained_again(world, judges_dir, tmp_path, monkeypatch):
    trained = digit_judges.get_judges(world.data, world.features, judges_dir)
    (tmp_path / "judges.json").write_text('{"version": 1')
    monkeypatch.setattr(digit_judges, "train_judges", lambda *_: trained)
    digit_judges.get_judges(world.data, world.features, tmp_path)
    assert (tmp_path / "judges.json").read_bytes() == (judges_dir / "judges.json").read_bytes()
    (tmp_path / "digits.npz").unlink()
    digit_judges.get_judges(world.data, world.features, tmp_path)
    assert (tmp_path / "digits.npz").is_file()
    # Others were trained for the same folder, and killed when one of theirs was written.
    monkeypatch.setattr(digit_judges, "train_judges", lambda *_: pytest.fail("trained again"))
    digit_judges.get_judges(world.data, world.features, tmp_path)
    stranger = digits.DigitJudge({name: value + 1 for name, value in trained.digits.weights.items()})
    for damage in (lambda path: stranger.save(path), lambda path: path.write_bytes(path.read_bytes()[:100])):
        damage(tmp_path / "digits.npz")
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            digit_judges.get_judges(world.data, world.features, tmp_path)


def test_another_sample_rate_is_refused(world, tmp_path):
    features = dataclasses.replace(world.features, sample_rate=8000)
    with pytest.raises(UserError, match="sample_rate=8000"):
        digit_judges.get_judges(world.data, features, tmp_path)


def test_a_training_row_says_where_its_digits_are(world):
    clips = load_clips(world.data, world.features, "train")
    joiner = digits.Joiner(clips)
    row = joiner.batch(1, 2)
    assert np.array_equal(joiner.batch(1, 2).samples, row.samples), "a pure function of (seed, step)"
    for labels, spoken, count in zip(row.labels, row.digits, row.spoken, strict=True):
        assert digits.collapse(labels) == [d - 1 for d in spoken[:count]]
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
