"""Probes on a model whose every answer is known, and on the counting world of tones."""

import dataclasses
import json
import math

import numpy as np
import pytest
from evaluation.fakes_run import Ears, Reader, Talker, Voices
from evaluation.suites.test_continuation import FACTS, TEXTS, every_column, example, items

from spectron.data.counting.utterances import test_items as all_items
from spectron.evaluation.counting import world as digit_world
from spectron.evaluation.counting.judges import get_judges
from spectron.evaluation.counting.world import closed_world, digit_cuts, is_seen, pick_items
from spectron.evaluation.metrics.intervals import correlation
from spectron.evaluation.suites import probes
from spectron.evaluation.suites.judge_runner import Judgement, Judges
from spectron.evaluation.suites.probe_errors import CLOSED, error_figures, error_pairs, error_rows
from spectron.evaluation.suites.probes import FULL, NO_TEXT, NULL, OTHER, TRUE, another, probe
from spectron.evaluation.suites.speaking import Measured
from spectron.evaluation.suites.utterances import keep
from spectron.types import Answer, UserError
from spectron.utils.files import checksum_of

RUN = {**FACTS, "decoding_seeds": 2, "batch_size": 2}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    out = tmp_path_factory.mktemp("probes")
    judges = Judges(Ears(), Reader(), Voices())
    full, short = items(3), items(2)
    return probe(Talker(), full, {"prompt of 0.5 s": short}, out, judges, RUN, "ant bee fox"), out


def test_every_row_of_a_known_model(probed):
    rows = {name: every_column(probed[0], name) for name in probed[0].tables[0].rows}
    assert list(rows) == [FULL, NO_TEXT, NULL, TRUE, OTHER, "text 'ant bee fox'", "prompt of 0.5 s"]
    follows = {name: row["WER against what follows"].value for name, row in rows.items()}
    # What follows: three two one; four three; five four three two one one.
    assert follows[FULL] == pytest.approx((0 + 1 + 4) / 11), "a word too many; four missing or wrong"
    assert follows[NO_TEXT] == follows[NULL] == 1.0, "without text it says fox"
    assert follows[TRUE] == pytest.approx((0 + 0 + 1) / 11), "row 2 says fox for the last word"
    assert rows[FULL]["transcript WER"].value == pytest.approx(1 / 9)
    assert rows["prompt of 0.5 s"]["transcript WER"].value == pytest.approx(1 / 6)
    assert all("transcript WER" not in rows[name] for name in (NO_TEXT, NULL, TRUE, OTHER)), "forced text has no errors"
    assert "WER" not in rows[NULL] and "WER" not in rows[NO_TEXT]
    assert rows[OTHER]["WER"].value == pytest.approx(1 / 11), "it says the text it was given"
    assert rows[OTHER]["WER against what follows"].value > 0.5
    assert rows[FULL]["Speaker similarity"].value == 1.0
    assert rows[FULL]["stops by itself"].value == pytest.approx(5 / 6)


def test_wrong_transcripts_are_set_against_continuations(probed):
    rows = probed[0].tables[-1].rows
    assert set(rows) == {FULL, "prompt of 0.5 s", "all of these"}
    assert rows[FULL]["errors, transcript right"].n == 2 and rows[FULL]["errors, transcript wrong"].n == 1


def test_items_hold_every_row_and_seed(probed):
    lines = [json.loads(line) for line in (probed[1] / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 7 * 3 * 2
    given = [line["transcript"] for line in lines if line["row"] == NULL and line["seed"] == 0]
    assert [len(text.split()) for text in given] == [6, 6, 6], "as many null tokens as the full run wrote"


def test_null_tokens_of_another_seed_are_of_that_seed(tmp_path):
    class Wordy(Talker):
        """Writes a word more with every seed."""

        def answer(self, prompt, seed, row, forced):
            said = super().answer(prompt, seed, row, forced)
            return said if forced else dataclasses.replace(said, ids=(4,) * (2 + seed))

    probe(Wordy(), items(), {}, tmp_path, Judges(Ears()), RUN)
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert {(x["seed"], len(x["transcript"].split())) for x in lines if x["row"] == NULL} == {(0, 2), (1, 3)}


def test_another_text_is_another_text():
    made = [dataclasses.replace(items()[i % 3], id=str(i)) for i in range(30)]
    chosen = another(made)
    assert all(made[i].words != made[j].words for i, j in enumerate(chosen))
    assert chosen == another(made) and len(set(chosen)) > 10
    with pytest.raises(UserError, match="same text"):
        another([items()[0]] * 3)


def test_correlation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = 0.6 * x + 0.8 * rng.normal(size=(200, 3))
    pairs = [list(zip(a, b, strict=True)) for a, b in zip(x, y, strict=True)]
    found = correlation("r", pairs, "x and y.")
    assert found.value == pytest.approx(np.corrcoef(x.ravel(), y.ravel())[0, 1]) and found.n == 200
    assert found.low < found.value < found.high and found.high - found.low < 0.25
    assert math.isnan(correlation("r", [[(0.0, 1.0)], [(0.0, 2.0)]], "").value)
    assert math.isnan(correlation("r", [], "").value) and correlation("r", [[], [(1, 1), (2, 2)]], "").n == 1


def test_errors_are_by_the_transcript():
    figures = error_figures([[(0.0, 0.0), (0.5, 1.0)], [(0.0, 0.5)]], "told")
    assert figures["errors, transcript right"].value == 0.25 and figures["errors, transcript wrong"].value == 1.0
    assert set(error_figures([[(0.0, 0.5)]], "told")) == {"errors, transcript right"}
    assert error_pairs([], [], CLOSED) == []


def test_all_rows_together_are_in_one_unit():
    def row(nats):
        return [[Measured("ant bee", 1, 2, "bee", Judgement("cat", n, 1), True, 1.0)] for n in nats]

    silent = {FULL: (row([None, None]), [None, None]), "prompt of 1 s": (row([4.0, 6.0]), [None, None])}
    rows = error_rows(silent, closed=False)
    assert set(rows) == {"prompt of 1 s", "all of these"}, "of the other row nothing was asked"
    pooled = rows["all of these"]["errors, transcript wrong"]
    assert (pooled.value, pooled.unit, pooled.n) == (5.0, "nats a word", 2)
    unasked = {name: (row([None, None]), [None, None]) for name in silent}
    pooled = error_rows(unasked, closed=False)["all of these"]["errors, transcript wrong"]
    assert (pooled.value, pooled.unit) == (1.0, "%")


# The counting world.


class Counter:
    """Counts rightly in the right voice as long as it may write; says nothing without text."""

    def __init__(self, world, real):
        from spectron.data.vocabulary import make_vocabulary

        self.experiment, self.features, self.real = world, world.features, real
        self.vocabulary = make_vocabulary(world.data.vocabulary)
        self.params, self.statistics, self.prompt_size = None, None, round(2.4 * 16_000)

    def generate(self, prompts, seed=0, batch_size=8, numbers=(), forced=()):
        answers = []
        for prompt, row, ids in zip(prompts, numbers, forced, strict=True):
            example = self.real[row]
            text = self.vocabulary.decode(ids) if len(ids) else example.text
            samples = example.samples[len(prompt) :] if text == example.text else np.zeros(4000, np.int16)
            answers.append(Answer(text, np.zeros((1, 1)), samples, "stop head", tuple(self.vocabulary.encode(text))))
        return answers


def test_the_counting_world_is_cut_between_digits(world):
    examples = all_items(world.data, world.features, 1)[:4]
    full, cuts = digit_cuts(examples, (1, 3, 4), world.features)
    assert list(cuts) == ["prompt of 1 digit", "prompt of 4 digits"]
    for name, digits in (("prompt of 1 digit", 1), ("prompt of 4 digits", 4)):
        for whole, item in zip(examples, cuts[name], strict=True):
            assert item.prompt_words == digits and len(item.prompt) % world.features.hop == 0
            assert np.abs(item.rest[:100].astype(int)).max() < 30, "cut in the quiet between two digits"
            np.testing.assert_array_equal(np.concatenate([item.prompt, item.rest]), whole.samples)
    assert [item.prompt_words for item in full] == [3] * 4
    with pytest.raises(UserError, match="after 6 words"):
        digit_cuts(examples, (6,), world.features)
    assert [is_seen(item) for item in full] == [True, True, True, False], "(3, 1) is held out"


def test_probes_of_the_counting_world(world, judges_dir, tmp_path):
    real = pick_items(world, 1, 6)
    panel = get_judges(world, judges_dir)
    full, cuts = digit_cuts(real, (2,), world.features)
    results = probe(Counter(world, real), full, cuts, tmp_path, panel, RUN, world=closed_world(panel, full))
    rows = results.tables[0].rows
    ears = np.mean([panel.asr.transcribe([i.rest])[0].text.split() == i.words[3:] for i in full])
    seen = [is_seen(item) for item in full]
    shares = [
        rows[FULL][f"heard right, {name}"] for name in ("seen", "held-out") if f"heard right, {name}" in rows[FULL]
    ]
    assert sum(s.value * s.n for s in shares) / len(full) == pytest.approx(ears), (
        "as right as the judge hears the truth"
    )
    assert rows[FULL]["text right, seen"].value == 1.0 and rows[FULL]["text right, seen"].n == sum(seen)
    assert rows[NO_TEXT]["heard right, seen"].value == 0.0 and rows[NULL]["nothing heard"].value == 1.0
    assert rows[FULL]["right speaker"].value > rows[NO_TEXT]["right speaker"].value
    assert rows[TRUE]["WER against what follows"].value == rows[FULL]["WER against what follows"].value
    assert rows["prompt of 2 digits"]["transcript WER"].value == 0
    assert {judge["name"]: judge["role"] for judge in results.judges} == {
        "digit judge": "speech recogniser",
        "speaker judge": "speaker encoder",
    }
    plan = json.loads((tmp_path / "work" / "full-0-asr" / "plan.json").read_text())
    assert plan["judge"]["checksum"] == checksum_of([judges_dir / "digits.npz"]), "other weights are another judge"


def test_a_bad_length_is_named(world, monkeypatch, tmp_path):
    monkeypatch.setattr(probes, "load_generator", lambda *_: (Counter(world, []), dict(RUN)))
    monkeypatch.setattr(digit_world, "load_generator", lambda *_: (Counter(world, []), dict(RUN)))
    for given in (-1.0, math.nan):
        with pytest.raises(UserError, match=f"--prompts {given:g}"):
            probes.evaluate_probes("x", tmp_path, "manifest:x", prompts=[1.0, given])
    for given in (math.nan, 1.5, math.inf):
        with pytest.raises(UserError, match=f"--prompts {given:g}"):
            digit_world.evaluate_digit_probes("x", tmp_path, prompts=[1.0, given])


def test_texts_that_cannot_be_written_are_left_out(monkeypatch, tmp_path):
    """Eight tokens: item 2 has nine words. Two prompts' seconds more to say than in training are no reason."""
    talker = Talker()
    data = dataclasses.replace(talker.experiment.data, max_tokens=8, max_continuation_seconds=0.8)
    talker.experiment = dataclasses.replace(talker.experiment, data=data)
    monkeypatch.setattr(probes, "load_generator", lambda *_: (talker, dict(RUN)))

    def read(experiment, task, split, seconds, limit, checks):
        found, left_out = [example(i) for i in range(len(TEXTS))], {"x": 1}
        for check in checks:
            found = keep(found, left_out, check)
        return found, left_out

    monkeypatch.setattr(probes, "read_examples", read)
    rooms = []
    monkeypatch.setattr(probes, "with_room", lambda generator, _, seconds: rooms.append(seconds) or generator)
    results = probes.evaluate_probes("x", tmp_path, "manifest:x", prompts=[0.25])
    assert results.facts["left_out"] == {"x": 1, "with a text longer than data.max_tokens=8": 1}
    assert results.data[0]["items"] == 2 and "left out" in results.tables[0].note
    assert rooms == [0.0] * 5 + [1.57], "1.25 s behind the shorter prompt, a quarter more"
    with pytest.raises(UserError, match="max_tokens=8"):
        probes.evaluate_probes("x", tmp_path, "manifest:x", text="ant " * 9)
