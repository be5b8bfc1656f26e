"""Existing audio and texts scored with fake judges: pairing, figures, restarts, what is refused, one table for all."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from evaluation.fakes import LengthRecogniser, LetterLM, Level, PitchEncoder, manifest, tone

from spectron.audio import wav
from spectron.cli import main
from spectron.evaluation.metrics import similarity
from spectron.evaluation.metrics.perplexity import perplexity_figures, surprise
from spectron.evaluation.score.items import from_folders, from_manifest
from spectron.evaluation.score.metrics import Perplexity, Quality, Questions, Voices, Words
from spectron.evaluation.score.suite import score
from spectron.evaluation.score.table import joined
from spectron.types import UserError

pytest.importorskip("soundfile", reason="soundfile is not installed")


@pytest.fixture
def pairs(tmp_path):
    """Four prompts and continuations: the same voice, another, one that changes after a second, and silence."""
    voices = [(250, tone(250, 2)), (450, tone(650, 1.5)), (850, np.append(tone(850, 1), tone(1050, 1))), (1250, None)]
    for i, (pitch, spoken) in enumerate(voices):
        wav.write(tmp_path / "prompts" / f"{i}.wav", tone(pitch, 1), 16_000)
        wav.write(tmp_path / "said" / f"{i}.flac", np.zeros(20_000, np.int16) if spoken is None else spoken, 16_000)
    return tmp_path


def test_voices_from_folders(pairs):
    items = from_folders({"prompt": str(pairs / "prompts"), "continuation": str(pairs / "said")}, Voices.roles)
    results = score(Voices(PitchEncoder()), items, pairs / "out", "fake")
    row = results.tables[0].rows["fake"]
    assert row["Speaker similarity"].value == pytest.approx((1 + 0 + 0.5**0.5) / 3, abs=0.01)
    assert row["Speaker similarity"].n == 3
    assert results.tables[0].note == "fake: 1 of 4 left out, no voice was found."
    assert row["To other prompts"].value == pytest.approx(0, abs=0.01)
    assert (row["Drift"].value, row["Drift"].n) == (pytest.approx(-0.5, abs=0.01), 2)
    assert list(results.tables[1].rows["fake"]) == ["0–1 s", "1–2 s"]
    lines = [json.loads(line) for line in (pairs / "out" / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0", "1", "2", "3"]
    assert lines[2]["drift"] == pytest.approx(-1, abs=0.01)
    assert lines[3]["similarity"] is None
    assert "embedding" not in lines[0]
    held = json.loads((pairs / "out" / "results.json").read_text())
    assert held["judges"][0]["name"] == "pitch"
    assert held["data"][0]["items"] == 4
    assert len(held["data"][0]["checksum"]) == 64


def test_a_course_goes_by_quarters_of_a_second():
    spoken = np.append(tone(850, 1), tone(1050, 1))
    prompt, *parts = PitchEncoder().embed([tone(850, 1), *similarity.windows(spoken)])
    values = [similarity.cosine(prompt, part) for part in parts]
    assert len(values) == 5 and values == sorted(values, reverse=True)
    assert similarity.windows(spoken[:15_999]) == []
    assert math.isnan(similarity.drift(values[:4]))
    assert similarity.cosine(prompt, prompt) == pytest.approx(1)


def test_killed_and_started_again_nothing_is_measured_twice(pairs, monkeypatch):
    monkeypatch.setattr("spectron.evaluation.score.suite.CHUNK", 1)
    items = from_folders({"prompt": str(pairs / "prompts"), "continuation": str(pairs / "said")}, Voices.roles)

    calls = []

    class Counts(PitchEncoder):
        def embed(self, recordings):
            if len(calls) == 2:
                calls.append("killed")
                raise KeyboardInterrupt
            calls.append("done")
            return super().embed(recordings)

    with pytest.raises(KeyboardInterrupt):
        score(Voices(Counts()), items, pairs / "out", "fake")
    score(Voices(Counts()), items, pairs / "out", "fake")
    assert calls.count("done") == 4
    score(Voices(PitchEncoder()), items, pairs / "whole", "fake")
    for name in ("results.json", "results.md", "items.jsonl", "report.html"):
        assert (pairs / "out" / name).read_bytes() == (pairs / "whole" / name).read_bytes()


def test_an_out_folder_of_other_recordings_is_refused(pairs):
    items = from_folders({"audio": str(pairs / "said")}, ["audio"])
    score(Quality("level", Level(), pairs=False), items, pairs / "out", "x")
    wav.write(pairs / "said" / "0.flac", tone(99, 1), 16_000)
    with pytest.raises(UserError, match="another data"):
        score(Quality("level", Level(), pairs=False), items, pairs / "out", "x")


def test_verdicts_of_another_version_are_not_gone_on_with(tmp_path, monkeypatch):
    items = from_manifest(manifest(tmp_path, [{"answers": "a", "transcript": "b"}]), Questions(None).roles)
    score(Questions(None), items, tmp_path / "out", "x")
    monkeypatch.setattr("spectron.__version__", "another")
    with pytest.raises(UserError, match=r'the work of another spectron \(".*", not "another"\); choose another --out'):
        score(Questions(None), items, tmp_path / "out", "x")


def test_quality_with_and_without_a_reference(pairs):
    items = from_folders({"audio": str(pairs / "said")}, ["audio"])
    alone = score(Quality("level", Level(), pairs=False), items, pairs / "out", "x").tables[0]
    assert alone.rows["x"]["Level"].value == pytest.approx(8000 / 32768, rel=1e-3)
    assert alone.rows["x"]["Level"].n == 3
    assert Quality("level", Level(), pairs=True).roles == ("audio", "reference")


def test_words_of_a_manifest_and_of_a_recogniser(tmp_path):
    records = [{"id": "a", "text": "It's ten (laughs) colours!", "transcript": "it is 12 hmm colours"}]
    path = manifest(tmp_path, [*records, {"text": "Café", "transcript": "CAFE"}])
    items = from_manifest(path, Words(None).roles)
    table = score(Words(None), items, tmp_path / "out", "x").tables[0]
    assert table.rows["x"]["WER"].value == pytest.approx(1 / 5), "contractions, fillers and numbers are no errors"
    wav.write(tmp_path / "a.wav", tone(100, 0.3), 16_000)
    path = manifest(tmp_path, [{"text": "one two", "audio": "a.wav"}])
    heard = Words(LengthRecogniser({3: "ONE TWO"}))
    assert heard.roles == ("text", "audio")
    results = score(heard, from_manifest(path, heard.roles), tmp_path / "heard", "x")
    assert results.tables[0].rows["x"]["WER"].value == 0
    assert results.judges[0]["name"] == "length"


def test_a_recogniser_of_another_rate_is_refused():
    slow = LengthRecogniser({})
    slow.experiment = SimpleNamespace(features=SimpleNamespace(sample_rate=8000))
    for make in (Words, Questions, lambda recogniser: Perplexity(LetterLM(), recogniser)):
        with pytest.raises(UserError, match="'length' hears 8000 Hz, recordings are judged at 16000 Hz; give --recog"):
            make(slow)


def test_perplexity_by_all_three_definitions(tmp_path):
    found = surprise(LetterLM(), ["Ab  cde", "", "f"])
    assert found == [(5.0, 2, 2), (0.0, 0, 0), (1.0, 1, 1)]
    figures = perplexity_figures([[each] for each in found])
    assert [(f.value, f.n) for f in figures.values()] == [(2, 2), (2, 2), (3, 2)]
    assert all("Σ −ln p" in f.definition for f in figures.values())
    path = manifest(tmp_path, [{"transcript": "Ab cde"}, {"transcript": " "}])
    metric = Perplexity(LetterLM(), None)
    results = score(metric, from_manifest(path, metric.roles), tmp_path / "out", "x")
    assert results.tables[0].note == "x: 1 of 2 left out, nothing was said that could be scored."
    assert results.facts["case"] == "lower"


def test_the_page_has_players_and_verdicts(pairs, tmp_path):
    items = from_folders({"prompt": str(pairs / "prompts"), "continuation": str(pairs / "said")}, Voices.roles)
    score(Voices(PitchEncoder()), items, tmp_path / "voices", "fake")
    page = (tmp_path / "voices" / "report.html").read_text()
    assert page.count("<audio") == 8
    assert 'aria-label="continuation, 3"' in page
    records = [{"answers": ["Rome"], "transcript": "rome"}, {"answers": ["US", "USA"], "transcript": "<because>"}]
    metric = Questions(None)
    score(metric, from_manifest(manifest(tmp_path, records), metric.roles), tmp_path / "qa", "x")
    page = (tmp_path / "qa" / "report.html").read_text()
    assert [page.count(f'<tr data-state="{state}"') for state in ("right", "wrong")] == [1, 1]
    assert "US, USA" in page and "&lt;because&gt;" in page
    assert page.count('data-filter="short answers"') == 1
    assert "are shown" not in page


def test_a_page_of_many_items_says_how_many_it_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("spectron.evaluation.score.suite.ScoreSuite.max_rows", 3)
    path = manifest(tmp_path, [{"text": f"word {i}", "transcript": "word 2"} for i in range(5)])
    results = score(Words(None), from_manifest(path, Words(None).roles), tmp_path / "out", "x")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "3 of 5 items are shown" in page
    assert page.count("<tr data-state") == 3
    assert results.tables[0].rows["x"]["WER"].n == 5


def test_a_text_of_which_no_token_was_scored_is_left_out(tmp_path):
    class NoBeginning(LetterLM):
        def score(self, texts):
            return [(0.0, 0) if " " not in text else (-4.0, 1) for text in texts]

    path = manifest(tmp_path, [{"transcript": "ab cd"}, {"transcript": "one"}])
    metric = Perplexity(NoBeginning(), None)
    results = score(metric, from_manifest(path, metric.roles), tmp_path / "out", "x")
    figures = results.tables[0].rows["x"]
    assert [(f.value, f.n) for f in figures.values()] == [(4, 1), (2, 1), (4, 1)]
    assert results.tables[0].note == "x: 1 of 2 left out, nothing was said that could be scored."


def test_case_is_kept_when_asked_for():
    class Capitals(LetterLM):
        def score(self, texts):
            return [(-float(sum(map(str.isupper, text))), 1) for text in texts]

    assert surprise(Capitals(), ["AB"])[0].nats == 0
    assert surprise(Capitals(), ["AB"], keep_case=True)[0].nats == 2


def test_answers_with_the_short_ones_apart(tmp_path):
    records = [
        {"answers": ["US"], "transcript": "because"},
        {"answers": ["Rome", "Roma"], "transcript": "roma"},
        {"answers": "Paris", "transcript": "in paris"},
    ]
    path = manifest(tmp_path, records)
    metric = Questions(None)
    results = score(metric, from_manifest(path, metric.roles), tmp_path / "out", "x")
    rows = results.tables[0].rows
    assert [f.value for f in rows["x"].values()] == pytest.approx([1, 2 / 3, 1 / 3])
    assert rows["x, short answers"]["contains"].value == 0
    assert rows["x, other answers"]["substring"].n == 2


def test_nothing_to_score_is_null_in_json_and_a_dash_in_the_table(tmp_path):
    wav.write(tmp_path / "a" / "1.wav", np.zeros(16_000, np.int16), 16_000)
    items = from_folders({"audio": str(tmp_path / "a")}, ["audio"])
    score(Quality("level", Level(), pairs=False), items, tmp_path / "out", "x")
    held = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)
    assert held["tables"][0]["rows"]["x"]["Level"]["value"] is None
    assert "| x | – (– to –) | 0 |" in (tmp_path / "out" / "results.md").read_text()
    assert math.isnan(joined([tmp_path / "out"]).tables[0].rows["x"]["Level"].value)


def test_commands_of_sound_by_their_names(pairs, monkeypatch, capsys):
    monkeypatch.setattr("spectron.evaluation.judges.sound_judges.Resemblyzer", PitchEncoder)
    for name in ("DNSMOS", "PESQ", "STOI"):
        monkeypatch.setattr(f"spectron.evaluation.judges.sound_judges.{name}", Level)
    monkeypatch.setattr("spectron.recognition.recogniser.load_recogniser", lambda path: LengthRecogniser({10: "one"}))
    monkeypatch.setattr("spectron.evaluation.judges.language_models.load_language_model", lambda path: LetterLM())
    prompts, said = str(pairs / "prompts"), str(pairs / "said")
    manifest(pairs / "texts", [])
    for stem in range(4):
        (pairs / "texts" / f"{stem}.txt").write_text("one")
    texts = str(pairs / "texts")
    commands = {
        "speaker-similarity": [f"prompt={prompts}", f"continuation={said}"],
        "dnsmos": [f"audio={said}"],
        "pesq": [f"audio={prompts}", f"reference={prompts}"],
        "stoi": [f"audio={prompts}", f"reference={prompts}"],
        "wer": [f"audio={prompts}", f"text={texts}", "--recogniser", "x"],
        "qa": [f"audio={prompts}", f"answers={texts}", "--recogniser", "x"],
        "perplexity": [f"transcript={texts}", "--lm", "x"],
    }
    for name, arguments in commands.items():
        flags = [x for each in arguments for x in (("--folder", each) if "=" in each else (each,))]
        assert main(["score", name, *flags, "--out", str(pairs / "out" / name)]) == 0
        assert f"| {name} |" in capsys.readouterr().out, "the row is named after OUT"
    assert main(["score", "dnsmos", "--folder", f"prompt={prompts}", "--out", str(pairs / "no")]) == 2
    assert "--folder prompt=… is not read here; what is scored has audio." in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    path = manifest(tmp_path, [{"answer": ["Rome"], "said": "rome", "kind": "qa"}, {"kind": "other"}])
    fields = ["--field", "answers=answer", "--field", "transcript=said", "--where", "kind=qa"]
    for name in ("ours", "theirs"):
        assert (
            main(["score", "qa", "--manifest", str(path), *fields, "--row", name, "--out", str(tmp_path / name)]) == 0
        )
    assert "| ours | 100.0 % (20.7 to 100.0) |" in capsys.readouterr().out
    assert main(["score", "table", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    told = capsys.readouterr().out
    assert "| ours |" in told
    assert "| theirs |" in told
    assert main(["score", "qa", "--folder", "answers=x", *fields, "--out", str(tmp_path / "x")]) == 2
    assert "--field and --where" in capsys.readouterr().err
