"""`spectron data inspect FOLDER`: what is wrong with recordings, and the folder that configs/own.py trains from."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectron import cli
from spectron.config import load_experiment
from spectron.corpora import recordings_page
from spectron.corpora.recordings import inspect_recordings
from spectron.data.batches import make_feed
from spectron.data.sources import source_of
from spectron.recognition import recogniser as recognisers
from spectron.types import Hypothesis, UserError

RATE = 16_000
OWN = Path(__file__).parents[2] / "configs" / "own.py"
SENTENCE = "a quick brown fox jumps over the lazy dog seven grey geese watch from far beyond our broad river bank"
WORDS = tuple(SENTENCE.split(" "))


def talk(seconds, seed, rate=RATE, level=0.1):
    """Noise, different for every seed."""
    return np.random.default_rng(seed).normal(size=round(seconds * rate)).clip(-3, 3) * level


def text_of(seed, words=8):
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def put(folder, name, samples, text=None, rate=RATE):
    path = folder / f"{name}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    if text is not None:
        path.with_suffix(".txt").write_text(text, encoding="utf-8")


def spectron(*words):
    return cli.main([str(word) for word in words])


def problems_of(out):
    """problems.tsv: problem → names of the recordings without suffix."""
    found: dict[str, set[str]] = {}
    for line in (out / "problems.tsv").read_text().splitlines()[1:]:
        problem, name, _ = line.split("\t")
        found.setdefault(problem, set()).add(Path(name).stem)
    return found


@pytest.fixture(autouse=True)
def few_examples(monkeypatch):
    """Fewer pictures, which take most of the time of a small folder."""
    monkeypatch.setattr(recordings_page, "WORST", 1)
    monkeypatch.setattr(recordings_page, "GOOD", 1)


@pytest.fixture
def good(tmp_path):
    """Forty good recordings of one voice."""
    folder = tmp_path / "mine"
    for i in range(40):
        put(folder, f"good{i}", talk(3 + i / 20, i), text_of(i))
    return folder


def test_every_problem_is_found_and_named(good, tmp_path, capsys):
    for name, samples, text, *rate in (
        ("clipped", (9 * talk(3, 50)).clip(-1, 1), text_of(50)),
        ("silent", talk(3, 51) * 0, text_of(51)),
        ("quiet", talk(3, 52) * 0.02, text_of(52)),
        ("textless", talk(3, 53), None),
        ("wordless", talk(3, 54), " "),
        ("copy", talk(3, 0), text_of(0)),
        ("chatty", talk(3, 55), text_of(55, 40)),
        ("terse", talk(3, 56), "the fox"),
        ("short", talk(0.4, 57), "dog"),
        ("long", talk(25, 58), text_of(58, 64)),
        ("telephone", talk(3, 59, 8000), text_of(59), 8000),
        ("pause", np.concatenate([talk(9, 60) * 0, talk(3, 60)]), text_of(60)),
        ("number", talk(3, 61), text_of(61) + " 1984"),
        ("tagged", talk(3, 62), text_of(62) + " [laughter] <i>"),
        ("snowman", talk(3, 63), text_of(63) + " ☃"),
        ("cut", talk(3, 64), text_of(64)),
        *((f"same{i}", talk(3, 70 + i), text_of(65)) for i in range(6)),
    ):
        put(good, name, samples, text, *rate)
    put(good, "copy", soundfile.read(good / "good0.wav")[0], text_of(0))
    (good / "cut.wav").write_bytes((good / "cut.wav").read_bytes()[:40_000])
    (good / "empty.wav").write_bytes(b"")
    (good / "film.wav").write_bytes(b"\0\0\0 ftypisom" * 50)
    (good / "phone.m4a").write_bytes(b"\0\0\0 ftypisom" * 50)
    (good / "alone.txt").write_text("nobody said this")
    (good / "latin.txt").write_bytes((text_of(66) + " \xe9").encode("latin-1"))
    put(good, "latin", talk(3, 66))
    out = tmp_path / "out"
    assert spectron("data", "inspect", good, "--out", out) == 0
    found = problems_of(out)
    assert found.pop("markup") == {"tagged"}
    assert {"snowman", "tagged"} <= found.pop("rare-characters")
    assert found.pop("duplicate") < {"copy", "good0"}  # the first by name stays
    assert found == {
        "empty": {"empty"},
        "unreadable": {"film"},
        "format": {"phone"},
        "truncated": {"cut"},
        "silent": {"silent"},
        "no-text": {"textless", "wordless"},
        "no-recording": {"alone"},
        "rate-of-speech": {"chatty", "terse"},
        "too-short": {"short"},
        "too-long": {"long"},
        "clipped": {"clipped"},
        "quiet": {"quiet"},
        "mostly-silence": {"pause"},
        "silent-ends": {"pause"},
        "low-rate": {"telephone"},
        "mixed-rates": {"telephone"},
        "same-text": {f"same{i}" for i in range(6)},
        "digits": {"number"},
        "encoding": {"latin"},
    }
    said = capsys.readouterr().out
    assert "Detected: one text file per recording" in said
    assert "silent.wav (no sound at all)" in said
    assert "telephone.wav (8,000 Hz, most have 16,000)" in said
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    used = {Path(row["audio"]).stem for row in rows}
    assert not used & {"silent", "textless", "wordless", "chatty", "terse", "short", "long", "cut"}
    assert {"clipped", "quiet", "telephone", "snowman", "number"} <= used
    page = (out / "inspect.html").read_text()
    assert "texts of another length" in page and "chatty.wav" in page
    assert page.count("<audio") == page.count("data:image/png") >= 15
    assert spectron("data", "inspect", good, "--out", out, "--keep", "rate-of-speech", "truncated") == 0
    kept = (out / "manifest.jsonl").read_text()
    assert "chatty.wav" in kept and "cut.wav" in kept


def test_what_is_prepared_is_what_own_py_trains_on(good, tmp_path, capsys):
    out = tmp_path / "out"
    assert spectron("data", "inspect", good, "--out", out) == 0
    assert f"data.root={out}" in capsys.readouterr().out
    experiment = load_experiment(OWN, [f"data.root={out}", "stages.joint.steps=7"])
    assert experiment.stages[-1].steps == 7
    train, held_out = (source_of(experiment, task) for task in ("recordings", "held_out"))
    assert len(train) + len(held_out) == 40
    assert len(held_out) == 8
    names = [{source[i].id for i in range(len(source))} for source in (train, held_out)]
    assert not names[0] & names[1]
    spoken = {held_out[i].text for i in range(8)}
    assert not spoken & set((out / "texts.txt").read_text().splitlines())
    batches = make_feed(experiment, "recordings", 4).batches()
    batch = next(batches)
    batches.close()
    assert batch.text_mask.any(axis=1).all() and (batch.num_samples >= 3 * RATE).all()
    assert len(source_of(experiment, "texts")) == len(train)
    prompts = sorted((out / "prompts").glob("*.wav"))
    assert len(prompts) == 8 and {p.stem for p in prompts} <= names[1]
    assert {soundfile.info(p).frames for p in prompts} == {round(experiment.data.prompt_seconds * RATE)}
    first = (out / "manifest.jsonl").read_bytes()
    inspect_recordings(good, out)
    assert (out / "manifest.jsonl").read_bytes() == first


def test_sizes_and_steps_follow_the_hours(good, tmp_path):
    inspect_recordings(good, tmp_path / "out")
    path = tmp_path / "out" / "prepared.json"
    facts = json.loads(path.read_text())
    recipes = []
    for hours in (0.2, 5, 100):
        path.write_text(json.dumps({**facts, "hours": hours}))
        recipes.append(load_experiment(OWN, [f"data.root={tmp_path / 'out'}"]))
    assert [recipe.model.lm.dim for recipe in recipes] == [128, 256, 512]
    steps = [recipe.stages[-1].steps for recipe in recipes]
    assert steps == sorted(set(steps))


def test_short_recordings_get_short_prompts_and_characters(tmp_path):
    folder = tmp_path / "commands"
    for i in range(20):
        put(folder, str(i), talk(1.2, i), WORDS[i])
    inspect_recordings(folder, tmp_path / "out")
    experiment = load_experiment(OWN, [f"data.root={tmp_path / 'out'}"])
    assert experiment.data.vocabulary.kind == "characters"
    assert experiment.data.prompt_seconds == pytest.approx(0.78)
    assert len(source_of(experiment, "recordings")) == 15


def test_speakers_are_held_out_where_there_are_several(tmp_path):
    folder = tmp_path / "many"
    for i in range(60):
        put(folder, f"speaker{i % 12}/{i}", talk(3, i), text_of(i))
    found = inspect_recordings(folder)
    speakers = [
        {found.checked.records[i].speaker for i, split in found.splits.items() if split == part}
        for part in ("train", "held_out")
    ]
    assert len(speakers[0] | speakers[1]) == 12
    assert not speakers[0] & speakers[1]
    assert found.count("held_out") == 10
    assert not (tmp_path / "out").exists()  # without an output folder nothing is written


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (3, 0), (4, 1), (12, 3)])
def test_of_few_recordings_a_quarter_at_most_is_held_out(count, held_out, tmp_path):
    folder = tmp_path / "few"
    for i in range(count):
        put(folder, str(i), talk(3, i), text_of(i))
    found = inspect_recordings(folder, tmp_path / "out")
    assert (found.count("train"), found.count("held_out")) == (count - held_out, held_out)


def test_a_manifests_own_splits_are_kept(good, tmp_path):
    rows = ({"audio": f"good{i}.wav", "text": text_of(i), "split": "test" if i < 5 else "train"} for i in range(20))
    (good / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = inspect_recordings(good / "manifest.jsonl")
    assert (found.count("train"), found.count("held_out")) == (15, 5)


class Listener:
    """Hears the text of a recording by its length; of some, another one."""

    name = "listener"

    def __init__(self, texts, wrong):
        self.texts = texts
        self.wrong = wrong
        self.calls = 0

    def transcribe(self, recordings):
        self.calls += len(recordings)
        texts = (self.texts[len(samples)] for samples in recordings)
        return [Hypothesis(self.wrong.get(text, text), -1.0, 3) for text in texts]


@pytest.fixture
def listener(good, monkeypatch):
    texts = {round((3 + i / 20) * RATE): text_of(i) for i in range(40)}
    listener = Listener(texts, {text_of(3): text_of(99)})
    monkeypatch.setattr(recognisers, "load_recogniser", lambda path: listener)
    monkeypatch.setattr(recognisers, "resolve_recogniser", str)
    return listener


def test_a_recogniser_writes_missing_texts_and_checks_the_others(good, tmp_path, listener, capsys):
    (good / "good0.txt").unlink()
    out = tmp_path / "out"
    command = ("data", "inspect", good, "--out", out, "--recogniser", "R")
    assert spectron(*command) == 0
    assert problems_of(out) == {"misheard": {"good3"}}
    rows = {Path(row["audio"]).stem: row for row in map(json.loads, (out / "manifest.jsonl").read_text().splitlines())}
    assert rows["good0"]["text"] == text_of(0)
    assert rows["good0"]["labelled"] and "labelled" not in rows["good1"]
    assert "good3" not in rows
    said = capsys.readouterr().out
    assert "1 recordings have no text" in said and "0 % word errors (median)" in said
    calls = listener.calls
    inspect_recordings(good, out, "R")
    assert listener.calls == calls == 40  # each is heard once


def test_a_bad_recogniser_judges_no_text(good, listener, capsys):
    listener.wrong = dict.fromkeys(listener.texts.values(), "hm")
    assert spectron("data", "inspect", good, "--recogniser", "R") == 0
    said = capsys.readouterr().out
    assert "too many to say which texts are wrong" in said and "not heard" not in said


def test_recordings_without_any_text_are_labelled_or_refused(good, tmp_path, listener, capsys):
    for path in good.glob("*.txt"):
        path.unlink()
    out = tmp_path / "out"
    assert spectron("data", "inspect", good, "--out", out) == 2
    captured = capsys.readouterr()
    assert "no recording to train on" in captured.err
    assert "recordings without text" in captured.out and "--recogniser DIR" in captured.out
    assert (out / "inspect.html").is_file() and not (out / "prepared.json").exists()
    assert spectron("data", "inspect", good, "--out", out, "--recogniser", "R") == 0
    assert len(source_of(load_experiment(OWN, [f"data.root={out}"]), "recordings")) == 32


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("gone",), "does not exist"),
        (("mine", "--out", "mine"), "recordings' own folder"),
        (("mine", "--keep", "quiet"), "'quiet' is unknown; give some of: truncated"),
        (("mine", "--set", "seed=3"), "--set changes a config"),
        (("mine", "--config", "c.py", "--keep", "duplicate"), "are for a folder of recordings"),
    ],
)
def test_wrong_use_is_one_sentence(good, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    assert spectron("data", "inspect", *words) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_own_py_says_what_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=DIR"):
        load_experiment(OWN)
    with pytest.raises(UserError, match=r"has no prepared\.json"):
        load_experiment(OWN, [f"data.root={tmp_path}"])
    (tmp_path / "prepared.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        load_experiment(OWN, [f"data.root={tmp_path}"])
