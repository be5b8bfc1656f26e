"""The page that every suite writes: one file, read without a network, with the keyboard alone if need be."""

import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest

from spectron.audio.spectrograms import log_mels
from spectron.config import FeatureConfig
from spectron.evaluation.metrics.intervals import Figure, average, proportion
from spectron.evaluation.report import page
from spectron.evaluation.report.page import Cell, Item
from spectron.evaluation.results import Results, Table
from spectron.utils.html import render
from spectron.utils.spacing import evenly_spaced_order

FEATURES = FeatureConfig()
SCORES = (0.5, 0.25, 10.0, -3.0, 2.0)


def sound(hertz, seconds=0.5):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(16_000 * seconds)) / 16_000)).astype(np.int16)


def items():
    made = []
    for i, score in enumerate(SCORES):
        question, answer = sound(300 + 50 * i), sound(500, 0.3 + 0.1 * i)
        before, behind = log_mels([question, answer], FEATURES)
        cells = {
            "Question": Cell(f"Who <wrote> number {i}?"),
            "Speech": Cell("nobody", marks={"substring": i % 2 == 0, "exact": False}, value=score),
        }
        sounds = (("question", question), ("answer", answer if i else answer[:0]))
        groups = ("short answers",) if i < 2 else ("ab"[i % 2],)
        made.append(Item(f"q{i}", cells, sounds, (("log-mel", before, behind),), i % 2 == 0, groups))
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    figures = {"substring": proportion("x", [[True], [False]], "Contained & lower-cased.")}
    other = {"substring": figures["substring"], "seconds": average("s", [1.0, 2.0], "How long.", "s")}
    results = Results(
        "spoken-qa",
        [Table("All <questions>", {"text": figures, "speech": other}, "What is judged.")],
        {"checkpoint": "runs/<x>", "seeds": [0, 1]},
        [{"role": "asr", "name": "ctc", "version": "1", "settings": {"beam": 3}, "checksum": "c"}],
        [{"name": "webquestions", "items": 5, "checksum": "abc"}],
    )
    page.write(path, results, items(), ["One & only."], FEATURES, "Id")
    return path


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, *tags):
        return [attrs for name, attrs in self.found if name in tags]


def test_everything_is_in_the_file_and_named(path):
    text = path.read_text()
    tags = Tags(text)
    assert "<!--" not in text and not re.search(r"https?://", text)
    sources = [attrs["src"] for attrs in tags.all("img", "audio", "script") if "src" in attrs]
    assert len(sources) == 5 + 5 + 4 and all(src.startswith("data:") for src in sources)
    assert not tags.all("link", "iframe", "object")
    assert all(attrs.get("alt") for attrs in tags.all("img"))
    assert all(attrs.get("aria-label") and "controls" in attrs for attrs in tags.all("audio"))
    regions = [attrs for attrs in tags.all("div") if attrs.get("class") == "box"]
    assert len(regions) == 5
    assert all(r["tabindex"] == "0" and (r.get("aria-label") or r.get("aria-labelledby")) for r in regions)
    told = re.sub(r"<[^>]+>", " ", text)
    for words in ("All &lt;questions&gt;", "50.0 %", "What is judged.", "Contained &amp; lower-cased.", "How long."):
        assert words in told, words
    for words in ("asr", "ctc", "beam 3", "webquestions", "checksum abc", "runs/&lt;x&gt;", "0, 1", "One &amp; only."):
        assert words in told, words


def test_sounds_that_do_not_fit_are_left_out_evenly_and_verdicts_stay(tmp_path):
    many = items()
    page.write(tmp_path / "p.html", Results("t", ()), many[:1], (), FEATURES)
    one = sum(map(len, re.findall(r'"(data:[^"]*)"', (tmp_path / "p.html").read_text())))
    page.write(tmp_path / "p.html", Results("t", ()), many, (), FEATURES, max_media=round(2.6 * one))
    text = (tmp_path / "p.html").read_text()
    rows = re.findall(r"<tr data-state.*?</tr>", text, re.DOTALL)
    assert page.MEDIA_LEFT_OUT in text
    assert [("<audio" in row) for row in rows] == [True, False, False, False, True]
    assert all("nobody" in row for row in rows)
    assert evenly_spaced_order(8) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert evenly_spaced_order(1) == [0] and evenly_spaced_order(0) == []


def test_without_sounds_there_is_no_empty_column(tmp_path):
    bare = [Item("q", {"Text": Cell("")})]
    page.write(tmp_path / "p.html", Results("t", ()), bare, (), FEATURES)
    text = (tmp_path / "p.html").read_text()
    assert page.MEDIA_LEFT_OUT not in text and "One by one" in text
    assert "Spectrograms" not in text and "—" in text and 'data-filter="right"' not in text


CHECKS = """
const players = [...document.querySelectorAll("audio")];
state.players = players.map(p => [p.readyState, p.error && p.error.message, p.duration]);
state.pictures = [...document.querySelectorAll("img")].map(i => i.complete && i.naturalWidth);
const find = name => [...document.querySelectorAll("#items thead th")].find(h => h.textContent.startsWith(name));
const shown = () => [...document.querySelectorAll("#items tbody tr")].filter(row => !row.hidden);
const names = () => shown().map(row => row.cells[0].textContent);
const press = button => { button.focus(); state.focus = document.activeElement === button; button.click(); };
state.media = find("Spectrograms").querySelector("button") === null;
press(find("Speech").querySelector("button"));
state.ascending = [find("Speech").getAttribute("aria-sort"), names()];
press(find("Speech").querySelector("button"));
state.descending = [find("Speech").getAttribute("aria-sort"), names()];
press(find("Id").querySelector("button"));
state.others = find("Speech").getAttribute("aria-sort");
for (const name of ["right", "wrong", "short answers", "a", ""]) {
  press(document.querySelector(`[data-filter="${name}"]`));
  state["only " + name] = [names(), document.getElementById("count").textContent];
}
const search = document.getElementById("search");
search.value = "NUMBER 3"; search.dispatchEvent(new Event("input"));
state.found = names();
search.value = ""; search.dispatchEvent(new Event("input"));
const tabbable = [...document.querySelectorAll("button, input, audio, .box")];
state.tabbable = tabbable.every(e => e.tabIndex === 0);
state.resources = performance.getEntriesByType("resource").map(e => e.name.slice(0, 5));
"""


def test_the_page_works_in_a_browser(path, tmp_path):
    state, console, requests = browser.open_page(path, CHECKS, tmp_path)
    assert not console, console
    assert not requests, requests
    assert set(state["resources"]) <= {"data:"}
    assert len(state["players"]) == 9
    for ready, error, _ in state["players"]:
        assert ready >= 1 and error is None
    assert state["players"][1][2] == pytest.approx(0.5, abs=0.01) and state["players"][2][2] == pytest.approx(
        0.4, abs=0.01
    )
    assert all(state["pictures"]) and len(state["pictures"]) == 5
    assert state["ascending"] == ["ascending", ["q3", "q1", "q0", "q4", "q2"]], "by number, not by letter"
    assert state["descending"] == ["descending", ["q2", "q4", "q0", "q1", "q3"]]
    assert state["others"] == "none" and state["focus"] and state["media"] and state["tabbable"]
    assert state["only right"] == [["q0", "q2", "q4"], "3 shown"]
    assert state["only wrong"] == [["q1", "q3"], "2 shown"]
    assert state["only short answers"][0] == ["q0", "q1"] and state["only a"][0] == ["q2", "q4"]
    assert state["only "] == [["q0", "q1", "q2", "q3", "q4"], "5 shown"]
    assert state["found"] == ["q3"]


def test_the_browser_would_notice_a_request_and_an_error(path, tmp_path):
    """The test above can fail: an address from outside is a request or a refusal, a mistake in a script is a line."""
    bad = tmp_path / "bad.html"
    outside = "http://127.0.0.1:9/x.png"
    text = path.read_text().replace("</h1>", f'</h1><img src="{outside}" alt="x">')
    bad.write_text(text)
    opened = browser.open_page(bad, "console.error('oh');", tmp_path)
    assert any("Content Security Policy" in line for line in opened.console) and not opened.requests
    assert any("oh" in line for line in opened.console)
    bad.write_text(text.replace("Content-Security-Policy", "x"))
    assert browser.open_page(bad, "", tmp_path).requests == [outside]


def test_a_note_is_a_paragraph_and_its_list_are_terms():
    figure = Figure("x", 1.0, 2, 0.5, 1.5, "d.", "s")
    section = page.table_section(Table("t", {"a": {"x": figure}}, "Not asked: nobody.\n- ours: the model: all of it."))
    text = render("t", (), [section])
    assert "<p>Not asked: nobody.</p>" in text and "<dt>ours</dt><dd>the model: all of it.</dd>" in text
