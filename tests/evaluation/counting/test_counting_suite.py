import dataclasses
import json
import math
import re
import shutil
from html.parser import HTMLParser

import browser
import numpy as np
import pytest

from spectron.audio.spectrograms import log_mels
from spectron.config import WordsConfig
from spectron.data.counting.utterances import WORDS
from spectron.evaluation.counting import suite as counting
from spectron.evaluation.counting.world import pick_items
from spectron.evaluation.results import markdown, read_results
from spectron.evaluation.score.table import joined
from spectron.types import Answer, UserError


def test_loudness():
    level, clipped = counting.loudness(np.array([16384, -16384] * 100, np.int16))
    assert level == pytest.approx(-6.02) and clipped == 0
    assert counting.loudness(np.array([32767, -32768, 0, 0], np.int16))[1] == 0.5
    assert math.isnan(counting.loudness(np.zeros(0, np.int16))[0])


def a_record(**changes):
    record = dict(
        item="i", speaker="anna", seed=0, held_out=False, asked="258", expected="147", transcript="t", word_errors=0,
        words=6, text_right=True, heard="147", heard_right=True, voice="anna", voice_right=True, stopped=True,
        seconds=1.0, real_seconds=2.0, level_db=-20.0, clipped=0.0, mel_distance=1.0,
    ) | changes  # fmt: skip
    verdicts = ("text_right", "heard_right", "voice_right", "stopped")
    return record | {"right": all(record[name] for name in verdicts)}


def test_summary_keeps_seen_and_held_out_apart():
    seen = [[a_record(), a_record(heard_right=False, word_errors=3, mel_distance=math.nan)]] * 3
    held = [[a_record(held_out=True, text_right=False, stopped=False), a_record(held_out=True, seconds=3.0)]]
    table, sound, speakers = counting.counting_tables(seen + held)
    figures = table.rows["Spectron"]
    assert {k: (f.value, f.n) for k, f in figures.items() if k.endswith(", seen")} == {
        "text right, seen": (1.0, 3),
        "heard right, seen": (0.5, 3),
    }
    assert (figures["text right, held-out"].value, figures["text right, held-out"].n) == (0.5, 1)
    assert figures["heard right, held-out"].value == 1.0
    assert figures["transcript WER"].value == pytest.approx(9 / 48)
    assert figures["stops by itself"].value == pytest.approx(7 / 8)
    assert sound.rows["Spectron"]["duration ratio"].value == pytest.approx((3 * 0.5 + 1.0) / 4)
    assert sound.rows["Spectron"]["log-mel distance"].value == 1.0, "an answer without frames has no distance"
    assert {name: {k: f.value for k, f in row.items()} for name, row in speakers.rows.items()} == {
        "anna": {"text right": 7 / 8, "heard right": 5 / 8, "right speaker": 1.0, "stops by itself": 7 / 8}
    }


def test_report_shows_wrong_and_right():
    many = [a_record(heard_right=i % 10 != 0, held_out=i % 5 == 1) for i in range(300)]

    def choose(records):
        return counting.choose(records, range(len(records)))

    chosen = choose(many)
    assert len(chosen) == len(set(chosen)) == 24
    assert sum(not many[i]["right"] for i in chosen) == 12
    assert sum(many[i]["held_out"] for i in chosen) == 6
    assert len(choose(many[1:9])) == 8, "few and all right: all are shown"
    assert len(choose([a_record(stopped=False)] * 100)) == 24, "all wrong: still full"


def test_a_model_without_digits_is_refused(world):
    data = dataclasses.replace(world.data, vocabulary=WordsConfig(("yes", "no")))
    with pytest.raises(UserError, match="no words for digits"):
        pick_items(dataclasses.replace(world, data=data), 1, 0)


class Parrot:
    """Stands for a trained model: says what was really said, but in every fourth prompt something is wrong."""

    def __init__(self, experiment, limit=24, dies_at=99):
        self.experiment, self.limit, self.asked, self.dies_at = experiment, limit, [], dies_at
        self.features = experiment.features

    def generate(self, prompts, seed, batch_size, numbers, forced):
        if len(self.asked) == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((seed, *numbers))
        items = pick_items(self.experiment, 1, self.limit)
        by_prompt = {item.samples[: item.prompt_samples].tobytes(): (i, item) for i, item in enumerate(items)}
        return [self._answer(*by_prompt[prompt.tobytes()]) for prompt in prompts]

    def _answer(self, i, item):
        words, samples = item.text.split(), counting.continuation(item)
        if i % 4 == 1:  # the right words, silence instead of a voice, until the end
            samples = np.zeros(len(samples), np.int16)
        if i % 4 == 2:  # wrong words, rightly spoken
            words = [*words[:5], WORDS[(WORDS.index(words[5]) + 1) % 10]]
        frames = log_mels([samples], self.experiment.features)[0]
        stopped_by = "maximum length" if i % 4 == 1 else "stop head"
        return Answer(" ".join(words), frames, samples, stopped_by)


def evaluate(parrot, out, judges_dir, **settings):
    def load(checkpoint, overrides, seeds, batch_size, limit):
        facts = {"checkpoint": checkpoint, "weights": "w", "experiment": "tones", "set": list(overrides)}
        return parrot, {**facts, "decoding_seeds": seeds, "batch_size": batch_size, "limit": limit}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "load_generator", load)
        return counting.evaluate_counting("CHECK<POINT", out, judges_dir, repeats=1, **settings)


@pytest.fixture(scope="module")
def evaluated(world, judges_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    return evaluate(Parrot(world), out, judges_dir, seeds=2, limit=24), out


@pytest.mark.slow
def test_killed_and_called_again_it_goes_on(world, judges_dir, tmp_path):
    settings = {"seeds": 2, "limit": 6, "batch_size": 2}
    whole, first, second = Parrot(world, 6), Parrot(world, 6, dies_at=4), Parrot(world, 6)
    evaluate(whole, tmp_path / "whole", judges_dir, **settings)
    with pytest.raises(KeyboardInterrupt):
        evaluate(first, tmp_path / "cut", judges_dir, **settings)
    evaluate(second, tmp_path / "cut", judges_dir, **settings)
    assert first.asked + second.asked == whole.asked == [(s, i, i + 1) for s in (0, 100_003) for i in (0, 2, 4)]
    for name in ("results.json", "items.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(UserError, match="another batch_size"):
        evaluate(Parrot(world, 6), tmp_path / "cut", judges_dir, **settings | {"batch_size": 3})


def test_evaluation_of_a_known_model(evaluated, world):
    results, out = evaluated
    assert repr(read_results(out)) == repr(results)
    tables = {table.title: table.rows for table in results.tables}
    assert list(tables) == ["Counting", "Sound of the answers", "Speakers", "The judges on real speech"]
    figures = tables["Counting"]["Spectron"]
    assert results.facts["items"] == 24 and results.facts["decoding_seeds"] == 2
    assert results.facts["weights"] == "w" and results.judges[0]["checksum"] and results.data[0]["items"] == 24
    assert figures["transcript WER"].value == pytest.approx(6 / (24 * 6))
    heard, text = ([figures[f"{k}, {part}"] for part in ("seen", "held-out")] for k in ("heard right", "text right"))
    assert sum(f.value * f.n for f in text) == pytest.approx(18)
    assert 16 <= sum(f.value * f.n for f in heard) <= 18 + 1e-6  # the judge itself may err on one
    assert figures["stops by itself"].value == pytest.approx(0.75)
    assert 0.75 <= figures["right speaker"].value <= 0.875  # silence is nobody's voice
    assert tables["Sound of the answers"]["Spectron"]["duration ratio"].value == pytest.approx(1.0)
    trusted = tables["The judges on real speech"]
    assert trusted["real test clips"]["digits heard"].n == 40
    assert trusted["real continuations"]["digits heard"].value > 0.9
    for figure in (figure for rows in tables.values() for row in rows.values() for figure in row.values()):
        assert figure.n > 0 and len(figure.definition) > 20
        assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert len(lines) == 48 and {line["seed"] for line in lines} == {0, 1}
    table = (out / "results.md").read_text()
    assert table == markdown(results)
    assert "- speaker encoder: speaker judge, version" in table
    assert "heard right, held-out" in table and "| anna |" in table


def test_results_stand_in_one_table_with_others(evaluated, tmp_path):
    out = evaluated[1]
    shutil.copytree(out, tmp_path / "other")
    text = (tmp_path / "other" / "results.json").read_text().replace('"n": 24', '"n": 23')
    (tmp_path / "other" / "results.json").write_text(text)
    together = joined([out, tmp_path / "other"])
    assert list(together.tables[0].rows) == ["Spectron", "Spectron, other"]


def test_folders_that_cannot_be_made_are_refused_before_judges_are_trained(world, tmp_path, monkeypatch):
    monkeypatch.setattr(counting, "get_judges", lambda *_: pytest.fail("judges are trained"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--out .*is not a folder"):
        evaluate(Parrot(world), tmp_path / "file" / "x", None)
    with pytest.raises(UserError, match=r"--judges .*is not a folder"):
        evaluate(Parrot(world), tmp_path / "out", tmp_path / "file" / "x")
    assert not (tmp_path / "out").exists()


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def test_report_is_one_file_that_needs_no_network(evaluated):
    path = evaluated[1] / "report.html"
    text = path.read_text()
    page = Page()
    page.feed(text)
    assert path.stat().st_size < 10_000_000
    assert "CHECK&lt;POINT" in text and "<!--" not in text, "escaped, and every part is filled in"
    sources = [attrs["src"] for tag in ("img", "audio", "script") for attrs in page.all(tag) if "src" in attrs]
    assert len(sources) == 24 * 4 and all(src.startswith("data:") for src in sources)
    assert not page.all("link") and not re.search(r"https?://", text)
    assert all(attrs.get("alt") for attrs in page.all("img"))
    assert all(attrs.get("aria-label") for attrs in page.all("audio"))


CLICKS = """
const head = [...document.querySelectorAll("#items thead th")].find(h => h.textContent.startsWith("Digits"));
head.querySelector("button").click();
state.first = head.getAttribute("aria-sort");
head.querySelector("button").click();
state.then = head.getAttribute("aria-sort");
document.querySelector("[data-filter=wrong]").click();
const items = [...document.querySelectorAll("#items tbody tr")];
state.digits = items.map(row => row.cells[0].textContent);
state.shown = items.filter(row => !row.hidden).map(row => row.dataset.state);
state.count = document.getElementById("count").textContent;
"""


def test_report_sorts_and_filters_in_a_browser(evaluated, tmp_path):
    state, console, requests = browser.open_page(evaluated[1] / "report.html", CLICKS, tmp_path)
    assert not console and not requests
    assert (state["first"], state["then"]) == ("ascending", "descending")
    digits = state["digits"]
    assert len(set(digits)) > 5 and digits == sorted(digits, reverse=True)
    assert state["shown"] and set(state["shown"]) == {"wrong"} and state["count"] == f"{len(state['shown'])} shown"
