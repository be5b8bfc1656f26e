"""The continuation suite on a model and judges whose every answer is known."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from evaluation.fakes import LengthRecogniser, LetterLM, Level, PitchEncoder, tone
from evaluation.fakes_run import Ears, Quality, Reader, Talker, Voices, speak

from spectron.audio import wav
from spectron.config import FeatureConfig
from spectron.evaluation.metrics.alignment import fit_start
from spectron.evaluation.metrics.similarity import course_table
from spectron.evaluation.score import metrics
from spectron.evaluation.score.items import from_manifest
from spectron.evaluation.score.suite import score
from spectron.evaluation.score.table import joined
from spectron.evaluation.suites import generation, speaking
from spectron.evaluation.suites.continuation import (
    COPY,
    OURS,
    TRUTH,
    continue_items,
    evaluate_continuation,
)
from spectron.evaluation.suites.judge_runner import JudgeRunner, Judges
from spectron.evaluation.suites.speaking import figures, prompt_words, true_measure
from spectron.evaluation.suites.utterances import SplitUtterance, cut, keep, read_examples, speakable
from spectron.types import Answer, Example, UserError
from spectron.utils.edit_distance import edit_distance
from spectron.utils.spacing import evenly_spaced

TEXTS = ("ant bee cat cat bee ant", "bee cat dog dog cat", "cat dog elk elk dog cat bee ant ant")
FACTS = {"checkpoint": "here", "set": [], "task": "made"}


@pytest.mark.parametrize(
    ("words", "longer", "expected"),
    [
        ("two five eight", "two five eight one four", (0, 3)),
        ("two five eight", "two nine eight one four", (1, 3)),
        ("two five eight", "two five one four seven", (1, 3)),
        ("two five eight", "two eight one four seven", (1, 2)),
        ("two five eight", "two two five eight one", (1, 4)),
        ("two five eight", "", (3, 0)),
        ("two five eight", "one four seven nine", (3, 0)),
        ("", "one four", (0, 0)),
    ],
)
def test_a_prompt_is_found_in_its_transcript(words, longer, expected):
    assert fit_start(words.split(), longer.split()) == expected


def test_distance():
    assert edit_distance(list("abc"), list("axcd")) == 2
    assert edit_distance([], ["a"]) == 1 == edit_distance(["a"], [])


def example(i, prompt=3):
    words = TEXTS[i].split()
    whole, ends = speak(words, 1000 * (1 + i)), tuple(4000 * (k + 1) for k in range(len(words)))
    return Example(whole, prompt * 4000, TEXTS[i], f"item {i}", f"s{i}", word_ends=ends)


def items(prompt=3):
    return [cut(each, each.prompt_samples) for each in (example(i, prompt) for i in range(len(TEXTS)))]


def every_column(results, row):
    return {column: figure for table in results.tables for column, figure in table.rows.get(row, {}).items()}


def run(tmp_path, talker, panel, seeds=2, batch_size=2):
    return continue_items(talker, items(), tmp_path, panel, FACTS, seeds, batch_size)


EVERYONE = Judges(Ears(), Reader(), Voices(), Quality())


def test_every_figure_of_a_known_model(tmp_path):
    results = run(tmp_path, Talker(), EVERYONE)
    ours, truth, copies = (every_column(results, name) for name in (OURS, TRUTH, COPY))
    assert ours["transcript WER"].value == pytest.approx(1 / 9), "row 2 mishears one of the nine words of all prompts"
    assert ours["WER"].value == pytest.approx(1 / 9), "and says one of nine words wrong"
    assert ours["log-ppl per token"].value == pytest.approx(0.5)
    assert ours["log-ppl per word"].value == pytest.approx(1.0)
    assert ours["log-ppl summed"].value == pytest.approx(3.0)
    assert ours["stops by itself"].value == pytest.approx(5 / 6)
    assert ours["Speaker similarity"].value == 1.0 and ours["DNSMOS overall"].value == 3.5
    assert ours["seconds"].value == pytest.approx(0.75)
    assert truth["WER"].value == 0 and "transcript WER" not in truth
    assert truth["log-ppl summed"].value == pytest.approx((3 + 2 + 6) / 3)
    assert truth["seconds"].value == pytest.approx(0.25 * 11 / 3) and "stops by itself" not in truth
    assert copies["seconds"].n == 3
    assert [table.title for table in results.tables] == [
        *("Continuation", "Words", "Log-perplexity", "Speaker similarity", "Sound")
    ], "one true continuation is longer than a second: too few for a course"
    assert "Drift" not in truth and "Drift" not in ours, "none lasts for two windows that do not overlap"
    lines = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert [(line["id"], line["row"], line["seed"]) for line in lines[:2]] == [("item 0", OURS, 0), ("item 0", OURS, 1)]
    assert len(lines) == 3 * 2 + 3 + 3
    assert lines[0]["transcript"] == "ant bee cat cat bee ant" and lines[0]["judgement"]["heard"] == "cat bee ant"
    assert json.loads((tmp_path / "results.json").read_text())["judges"][0]["name"] == "ears"
    assert str(tmp_path) not in (tmp_path / "results.json").read_text()
    assert "| Spectron | 11.1 %" in (tmp_path / "results.md").read_text()


def test_without_judges_what_needs_none_is_measured(tmp_path):
    ours = run(tmp_path, Talker(), Judges()).tables[0]
    assert set(ours.rows[OURS]) == {"transcript WER", "stops by itself", "seconds"}
    assert "--asr" in ours.note and "--lm" in ours.note


def test_words_of_a_prompt_are_timed_or_heard(tmp_path):
    untimed = [SplitUtterance(i.id, i.speaker, i.prompt, i.rest, i.text) for i in items()]
    hearing = JudgeRunner(Judges(asr=Ears()), tmp_path, 2)
    assert prompt_words(untimed, hearing) == [3, 3, 3]
    assert prompt_words([items()[0], *untimed[1:]], JudgeRunner(Judges(), tmp_path, 2)) == [3, None, None]


def test_a_prompt_of_which_no_word_is_recognised_ends_nobody_knows_where(tmp_path):
    class Deaf(Ears):
        def transcribe(self, recordings):
            return [h._replace(text="fox" if h.text == "ant bee cat" else "") for h in super().transcribe(recordings)]

    untimed = [SplitUtterance(i.id, i.speaker, i.prompt, i.rest, i.text) for i in items()]
    panel = Judges(asr=Deaf())
    assert prompt_words(untimed, JudgeRunner(panel, tmp_path, 2)) == [None] * 3, (
        "the first is misheard, the others not heard"
    )
    results = continue_items(Talker(), untimed, tmp_path, panel, FACTS, 1, 2)
    for row in (OURS, TRUTH, COPY):
        assert not {"WER", "transcript WER"} & set(every_column(results, row)), "no errors against words of the prompt"
    assert "In 3 of 3 prompts the recogniser hears none" in results.tables[0].note
    assert not re.search(r"(right|wrong).{,9}</span> ant bee cat", (tmp_path / "report.html").read_text())


def test_a_second_run_asks_nobody(tmp_path):
    first = run(tmp_path, Talker(), EVERYONE)
    bytes_of_it = (tmp_path / "results.json").read_bytes()
    talker = Talker()
    again = run(tmp_path, talker, EVERYONE)
    assert talker.rows == [] and again.to_json() == first.to_json()
    assert (tmp_path / "results.json").read_bytes() == bytes_of_it


def test_spread():
    assert evenly_spaced(range(10), 10) == list(range(10)) == evenly_spaced(range(10), 12)
    assert evenly_spaced(range(10), 3) == [0, 4, 9] and evenly_spaced(range(3), 2) == [0, 2]


@pytest.fixture
def corpus(tmp_path):
    """A manifest of three utterances of 1.5, 1.25 and 2.25 s, and one too short to be continued."""
    lines = []
    for i, text in enumerate((*TEXTS, "fox fox")):
        wav.write(tmp_path / f"{i}.wav", speak(text.split(), 1000 * (1 + i)), 16_000)
        lines.append(json.dumps({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "split": "test"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_what_is_too_short_is_left_out_and_counted(corpus):
    talk = Talker().experiment
    found, left_out = read_examples(talk, f"manifest:{corpus}", "test")
    assert [e.id for e in found] == ["u0", "u1", "u2"] and sum(left_out.values()) == 1
    found, left_out = read_examples(talk, f"manifest:{corpus}", "test", seconds=1.0)
    assert [e.id for e in found] == ["u0", "u2"] and sum(left_out.values()) == 2
    assert found[0].prompt_samples == 16_000
    with pytest.raises(UserError, match="no usable example"):
        read_examples(talk, f"manifest:{corpus}", "test", seconds=9.0)


def test_from_a_manifest_to_results(corpus, monkeypatch, tmp_path):
    talker = Talker()
    monkeypatch.setattr(generation, "load_generator", lambda *_: (talker, dict(FACTS)))
    out = tmp_path / "out"
    results = evaluate_continuation("x", f"manifest:{corpus}", out, EVERYONE, "test", prompt_seconds=1.0, batch_size=2)
    assert results.facts["prompt_seconds"] == 1.0 and results.data[0]["items"] == 2
    assert results.facts["prompts"] == [1.0, 1.0]
    assert results.tables[0].rows[OURS]["transcript WER"].value == 0
    with pytest.raises(UserError, match="another set of prompts"):
        evaluate_continuation("x", f"manifest:{corpus}", out, EVERYONE, "test", batch_size=2)
    for seconds in (-1, math.nan, math.inf):
        with pytest.raises(UserError, match="--prompt-seconds"):
            evaluate_continuation("x", f"manifest:{corpus}", out, EVERYONE, "test", prompt_seconds=seconds)


def test_what_the_model_has_no_time_to_say_is_left_out(corpus, monkeypatch, tmp_path):
    talker = Talker()
    data = dataclasses.replace(talker.experiment.data, max_continuation_seconds=1.0)
    talker.experiment = dataclasses.replace(talker.experiment, data=data)
    monkeypatch.setattr(generation, "load_generator", lambda *_: (talker, dict(FACTS)))
    results = evaluate_continuation("x", f"manifest:{corpus}", tmp_path / "out", Judges(), "test", batch_size=2)
    assert results.data[0]["items"] == 2, "u2 has 1.5 s behind its prompt"
    assert results.facts["left_out"]["with more after the prompt than data.max_continuation_seconds=1"] == 1
    assert "are left out" in results.tables[0].note
    with pytest.raises(UserError, match="max_continuation_seconds=1"):
        keep([example(2)], {}, speakable(talker.experiment))


def test_another_takes_the_place_of_what_is_left_out(corpus):
    """Two are asked for; the first and the last are tried first, and the last one is too short."""
    found, left_out = read_examples(Talker().experiment, f"manifest:{corpus}", "test", 1.0, limit=2)
    assert [e.id for e in found] == ["u0", "u2"] and sum(left_out.values()) == 2
    no_first = "of no use", lambda e: e.id != "u0"
    found, left_out = read_examples(Talker().experiment, f"manifest:{corpus}", "test", 1.0, limit=1, checks=[no_first])
    assert [e.id for e in found] == ["u2"] and left_out["of no use"] == 1


def test_errors_are_counted_without_case_accents_and_punctuation(tmp_path):
    class Writer(Talker):
        """Writes and hears as people write."""

        def answer(self, prompt, seed, row, forced):
            said = super().answer(prompt, seed, row, forced)
            return dataclasses.replace(said, transcript=said.transcript.title().replace(" ", ", ") + ".")

    class Listener(Ears):
        def transcribe(self, recordings):
            return [h._replace(text=f"{h.text.upper()}!") for h in super().transcribe(recordings)]

    plain = every_column(run(tmp_path / "a", Talker(), Judges(Ears())), OURS)
    written = every_column(run(tmp_path / "b", Writer(), Judges(Listener())), OURS)
    for name in ("transcript WER", "WER"):
        assert written[name].value == pytest.approx(plain[name].value) == pytest.approx(1 / 9)


def test_windows_without_a_voice_are_left_out(tmp_path):
    quiet = np.zeros(20_000, np.int16)
    sounds = [tone(300, 2.5), np.concatenate([tone(300, 1.0), quiet]), quiet]
    hearing = JudgeRunner(Judges(speaker=PitchEncoder()), tmp_path, 2)
    voices = hearing.voices("prompts", [tone(300, 1.0), tone(300, 1.0), tone(300, 1.0)], with_windows=False)
    loud, half, silent = hearing.judge("said", sounds, voices)
    assert loud.similarity == pytest.approx(1) and min(loud.course) > 0.99
    assert half.course[0] > 0.99 and math.isnan(half.course[-1])
    assert silent.similarity is None and all(map(math.isnan, silent.course))
    nobody = hearing.voices("quiet", [quiet] * 3, with_windows=False)
    assert all(each.similarity is None for each in hearing.judge("said", sounds, nobody))
    measured = [[true_measure(items()[0], 3, s, o)] for s, o in zip(sounds, (loud, half, silent), strict=True)]
    found = figures(measured)
    assert found["Speaker similarity"].n == 2 and found["Drift"].n == 1 and found["Drift"].value == pytest.approx(0)
    course = course_table({"x": [[m.judgement.course for m in each] for each in measured]})[0].rows["x"]
    assert list(course) == ["0–1 s"] and course["0–1 s"].n == 2 and course["0–1 s"].value > 0.99


def test_a_row_of_the_suite_stands_beside_a_scored_one(tmp_path):
    """What was generated, scored as any system's recordings: the same figures in the same columns."""
    made = [
        SplitUtterance(f"i{k}", "", tone(200 + 100 * k, 1.0), tone(250 + 90 * k, 2.6), "a b c", 1) for k in range(3)
    ]
    texts = {26: "b c d", 20: "b x"}

    class Hummer(Talker):
        def answer(self, prompt, seed, row, forced):
            samples = tone(300 + 60 * row, 2.6)
            return Answer("a b c d", np.zeros((1, 1)), samples, "stop head", (4,))

    ears, lm = LengthRecogniser(texts), LetterLM()
    panel = Judges(ears, lm, PitchEncoder(), Level())
    suite = continue_items(Hummer(), made, tmp_path / "suite", panel, FACTS, 1, 2)
    lines = []
    for k, item in enumerate(made):
        wav.write(tmp_path / f"p{k}.wav", item.prompt, 16_000)
        wav.write(tmp_path / f"c{k}.wav", tone(300 + 60 * k, 2.6), 16_000)
        files = {"prompt": f"p{k}.wav", "continuation": f"c{k}.wav", "audio": f"c{k}.wav", "text": "b c d"}
        lines.append(json.dumps({"id": item.id, **files}))
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    given = (metrics.Voices(PitchEncoder()), metrics.Quality("dnsmos", Level(), pairs=False),
             metrics.Words(ears), metrics.Perplexity(lm, ears))  # fmt: skip
    for metric in given:
        found = from_manifest(tmp_path / "m.jsonl", metric.roles, {}, {})
        score(metric, found, tmp_path / metric.name, "scored")
        tables = {t.title: t for t in joined([tmp_path / "suite", tmp_path / metric.name]).tables}
        shared = [table for table in tables.values() if "scored" in table.rows]
        assert shared and all(OURS in table.rows for table in shared), metric.name
        for table in shared:
            ours, scored = table.rows[OURS], table.rows["scored"]
            assert set(ours) == set(scored) - {"To other prompts"}, table.title
            for column, figure in ours.items():
                assert figure.value == pytest.approx(scored[column].value, abs=1e-6), column
    assert suite.tables[0].title == "Continuation"


def test_a_recogniser_of_another_rate_is_refused_at_once():
    ears = Ears()
    ears.experiment = dataclasses.replace(Talker().experiment, features=FeatureConfig(sample_rate=8000))
    with pytest.raises(UserError, match="'ears' hears 8000 Hz"):
        Judges(asr=ears)


def test_a_page_says_how_many_it_shows(tmp_path, monkeypatch):
    monkeypatch.setattr(speaking.SpeakingSuite, "max_rows", 2)
    run(tmp_path, Talker(), Judges())
    assert "2 of 12 items are shown" in (tmp_path / "report.html").read_text()
