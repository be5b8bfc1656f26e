"""Spoken questions from audio to report: what is judged, what is kept, and that nothing is done twice."""

import json
import math

import browser
import numpy as np
import pytest
import tiny_checkpoints

from spectron.audio import wav
from spectron.data.question_sets import Question, QuestionSet, read_questions
from spectron.evaluation.metrics.answers import LONG, SHORT
from spectron.evaluation.score.metrics import Questions
from spectron.evaluation.suites import qa
from spectron.evaluation.suites.qa import after_question
from spectron.evaluation.suites.spoken_qa import QASettings, evaluate_spoken_qa
from spectron.types import Hypothesis, UserError


@pytest.mark.parametrize(
    ("transcript", "rest", "errors"),
    [
        ("what is the capital of india new delhi", "new delhi", 0),
        ("What is the capital of India? New Delhi.", "New Delhi.", 0),
        ("what is the capital of indigo new delhi", "new delhi", 1),
        ("what is capital of india new delhi", "new delhi", 1),
        ("new delhi", "new delhi", 6),  # nothing fits: the question was not written down
        ("", "", 6),
        ("what is the capital of india", "", 0),
    ],
)
def test_the_answer_stands_behind_the_words_that_fit_the_question(transcript, rest, errors):
    assert after_question("What is the capital of India?", transcript) == (rest, errors, 6)


def test_first_line():
    assert qa.first_line("  Paris, \tof course.\nQuestion: who?") == "Paris, of course."
    assert qa.first_line("\n \nParis") == "Paris" and qa.first_line(" \n") == ""


def asked(name, answers, **said):
    texts = {system: [each] if isinstance(each, str) else each for system, each in said.items()}
    return qa.judged(name, Question("1", "who?", answers), texts)


def test_short_answers_stand_apart_and_seeds_are_no_items():
    rows = [asked("s", ("Cl",), speech=["clear", "cl"]), asked("s", ("Paris",), speech=["in paris!", "london"])]
    table = qa.answer_table(rows, {"speech": "heard."})
    assert list(table.rows) == ["s, speech", "s, speech, other answers", "s, speech, short answers"]
    whole, _, short = table.rows.values()
    assert {k: v.value for k, v in whole.items()} == {"substring": 0.75, "contains": 0.5, "exact": 0.25}
    assert whole["substring"].n == 2
    assert short["substring"].value == 1.0 and short["contains"].value == 0.5
    assert "heard." in table.note and "The paper's" in whole["substring"].definition
    assert list(qa.answer_table(rows[1:], {"speech": ""}).rows) == ["s, speech"], "nobody's answer is short"
    scored = Questions(None).tables("x", [{"short": False, "substring": True, "contains": True, "exact": True}])[0]
    assert (scored.title, scored.columns) == (table.title, table.columns), "rows of `spectron score` stand beside"


# End to end.


class Ears:
    """Stands for a recogniser: hears how long a recording is; never asked twice about the same in one run."""

    name = "ears"

    def __init__(self):
        self.heard = []

    def transcribe(self, recordings):
        self.heard += [len(r) for r in recordings]
        return [Hypothesis(f"it is {len(r) % 7}", 0.0, 1) for r in recordings]


class Scholar:
    """Stands for a text LM that knows one capital."""

    facts = {"name": "scholar", "version": "1", "settings": {}, "checksum": "s"}  # noqa: RUF012

    def __init__(self, answer="New Delhi", dies=False):
        self.prompts, self.answer, self.dies = [], answer, dies

    def complete(self, prompts, max_tokens):
        if self.dies:
            raise KeyboardInterrupt
        self.prompts += prompts
        return [f" {self.answer}.\nQuestion: more?" if "india" in prompt else "\n" for prompt in prompts]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoints.save(tmp_path_factory.mktemp("run"), "spectron")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Five questions of noise, one of them with a short answer, one longer than the model's longest prompt."""
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    rows = [("What is the capital of india?", ["New Delhi"]), ("Symbol of chlorine?", ["Cl"]), ("a <b>?", ["c & d"])]
    rows += [("How many?", ["7", "seven"]), ("Who?", ["Nobody"])]
    lines = []
    for i, (text, answers) in enumerate(rows):
        samples = rng.normal(0, 3000, 6000 + 2000 * i).astype(np.int16)
        wav.write(folder / f"{i}.wav", samples, 16_000)
        lines.append(json.dumps({"id": f"q{i}", "question": text, "answers": answers, "audio": f"{i}.wav"}))
    (folder / "dev.jsonl").write_text("\n".join(lines))
    return [read_questions(f"small={folder / 'dev.jsonl'}"), read_questions(f"other={folder / 'dev.jsonl'}", 2)]


SETTINGS = QASettings(seeds=2, batch_size=4)


@pytest.fixture(scope="module")
def evaluated(checkpoint, sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    ears, scholar = Ears(), Scholar()
    results = evaluate_spoken_qa(checkpoint, sets, out, ears, scholar, SETTINGS)
    return results, out, ears, scholar


def test_every_system_is_judged_by_every_scorer(evaluated):
    results, out, ears, scholar = evaluated
    tables = {table.title: table for table in results.tables}
    assert list(tables) == ["Answers", "Beside the answers"]
    whole = tables["Answers"]
    systems = ["text stream", "text behind the question", "speech", "cascade", "text LM", "question repeated"]
    assert list(whole.rows) == [
        *(f"small, {system}{kind}" for system in systems for kind in ("", f", {LONG}", f", {SHORT}")),
        *(f"other, {system}" for system in systems),
    ]
    assert whole.columns == ["substring", "contains", "exact"]
    for table in results.tables:
        for row in table.rows.values():
            for figure in row.values():
                assert figure.n > 0 and figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
                assert len(figure.definition) > 20
    assert {k: f.value for k, f in whole.rows["small, text LM"].items()} == {
        "substring": 0.2,
        "contains": 0.2,
        "exact": 0.2,
    }
    assert whole.rows["small, cascade"]["contains"].value == 0.0, "who hears 'it is 3' knows no capital"
    assert whole.rows[f"small, speech, {SHORT}"]["contains"].n == 2
    beside = tables["Beside the answers"].rows["small"]
    assert list(beside) == ["stopped", "seconds", "question errors", "recogniser's errors"]
    assert 0 < beside["seconds"].value <= 0.5 and beside["recogniser's errors"].value > 0.5
    assert len(ears.heard) == 7 * 3 and len(scholar.prompts) == 7 * 2
    assert "Question: it is " in scholar.prompts[0] and scholar.prompts[0].endswith("\nAnswer:")
    stored = json.loads((out / "results.json").read_text())
    assert (
        stored["facts"]["longest_prompt_seconds"] == 0.88
        and stored["facts"]["longest_prompt_seconds_in_training"] == 0.5
    )
    plan = json.loads((out / "work" / "answers-0" / "plan.json").read_text())
    assert plan["weights"] == stored["facts"]["weights"] and len(plan["weights"]) == 64
    assert [judge["role"] for judge in stored["judges"]] == ["speech recogniser", "cascade lm"], "as `score` calls it"
    assert [entry["items"] for entry in stored["data"]] == [5, 2] and str(out) not in json.dumps(stored)
    assert "**Answers**" in (out / "results.md").read_text()


def test_every_verdict_can_be_looked_up(evaluated):
    results, out, *_ = evaluated
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 7 and lines[0]["id"] == "q0" and lines[0]["question_heard"].startswith("it is")
    assert len(lines[0]["said"]["speech"]) == 2 and len(lines[0]["said"]["cascade"]) == 1
    assert lines[0]["said"]["text LM"] == [{"text": "New Delhi.", "substring": True, "contains": True, "exact": True}]
    for scorer in ("substring", "contains", "exact"):
        right = [np.mean([each[scorer] for each in line["said"]["speech"]]) for line in lines[:5]]
        assert np.mean(right) == pytest.approx(results.tables[0].rows["small, speech"][scorer].value)
    assert all(len(line["stopped"]) == len(line["seconds"]) == 2 for line in lines)


def test_a_run_that_was_killed_goes_on_to_the_same_results(evaluated, checkpoint, sets, tmp_path):
    first = Ears()
    with pytest.raises(KeyboardInterrupt):
        evaluate_spoken_qa(checkpoint, sets, tmp_path, first, Scholar(dies=True), SETTINGS)
    second = Ears()
    evaluate_spoken_qa(checkpoint, sets, tmp_path, second, Scholar(), SETTINGS)
    assert len(first.heard) == 21 and not second.heard
    for name in ("results.json", "items.jsonl", "results.md", "report.html"):
        assert (tmp_path / name).read_bytes() == (evaluated[1] / name).read_bytes(), name
    other = Scholar()
    other.facts = {**Scholar.facts, "version": "2"}
    with pytest.raises(UserError, match="work of another judge"):
        evaluate_spoken_qa(checkpoint, sets, tmp_path, second, other, SETTINGS)


CHECKS = """
state.players = [...document.querySelectorAll("audio")].map(p => [p.readyState, p.error, p.duration]);
const shown = () => [...document.querySelectorAll("#items tbody tr")].filter(row => !row.hidden);
const find = name => [...document.querySelectorAll("#items thead th")].find(h => h.textContent.startsWith(name));
find("Text LM").querySelector("button").click();
find("Text LM").querySelector("button").click();
state.best = shown()[0].cells[0].firstChild.textContent;
document.querySelector("[data-filter=other]").click();
state.other = shown().map(row => row.cells[0].textContent).sort();
state.text = document.body.textContent;
"""


def test_the_report_is_heard_and_sorted_in_a_browser(evaluated, tmp_path):
    opened = browser.open_page(evaluated[1] / "report.html", CHECKS, tmp_path)
    assert not opened.console and not opened.requests
    state = opened.state
    assert len(state["players"]) == 14 and all(ready >= 1 and error is None for ready, error, _ in state["players"])
    assert state["players"][0][2] == pytest.approx(6000 / 16_000, abs=0.01)
    assert state["best"] == "q0" and state["other"] == ["q0other", "q4other"]
    for words in ("a <b>?", "right: c & d", "scholar", "ears", "synthesised 0"):
        assert words in state["text"], words


def test_without_judges_the_text_is_judged_alone(checkpoint, sets, tmp_path):
    results = evaluate_spoken_qa(checkpoint, sets[1:], tmp_path, settings=QASettings(batch_size=2))
    assert list(results.tables[0].rows) == [
        f"other, {each}" for each in ("text stream", "text behind the question", "question repeated")
    ]
    assert not results.judges and not math.isnan(results.tables[0].rows["other, text stream"]["exact"].value)


def test_mistakes_are_said_before_any_work(checkpoint, sets, tmp_path):
    for given, said in (
        (dict(lm=Scholar()), "give --asr too"),
        (dict(settings=QASettings(prompt="Q:")), "--prompt 'Q:' must hold"),
        (dict(sets=[sets[0]] * 2), "Two question sets are called 'small'"),
        (dict(checkpoint=tmp_path / "none"), "none"),
    ):
        with pytest.raises(UserError, match=said):
            evaluate_spoken_qa(**{"checkpoint": checkpoint, "sets": sets, "out": tmp_path / "out", **given})
    assert not (tmp_path / "out").exists()


def test_other_rates_are_brought_to_the_recognisers(checkpoint):
    tone = (8000 * np.sin(np.arange(8000) / 10)).astype(np.int16)
    (made,) = wav.resample_all([tone], 8000, 16_000)
    assert len(made) == 16_000 and made.dtype == np.int16 and abs(made).max() == pytest.approx(8000, rel=0.1)
    assert wav.resample_all([tone[:0]], 8000, 16_000)[0].size == 0


def test_question_sets_say_what_they_are():
    one = QuestionSet("x", (Question("1", "who?", ("a",)),))
    (facts,) = qa.data_facts([one], {"voice": "en-us"})
    assert facts == {"name": "x", "items": 1, "checksum": one.checksum, "synthesised": 1, "voice": "en-us"}
    assert qa.data_facts([one]) == [{"name": "x", "items": 1, "checksum": one.checksum}]
