"""`spectron evaluate spoken-qa` and `knowledge`, from question texts to report, on models that nobody trained."""

import json

import pytest
import tiny_checkpoints

pytest.importorskip("espeakng_loader", reason="the extra 'synth' is not installed")

from spectron.cli import main

ROWS = [
    {"question": "what is the capital of india?", "answers": ["New Delhi", "Delhi"]},
    {"question": "symbol of chlorine?", "answers": ["Cl"]},
    {"question": "how many?", "answers": ["seven"]},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for stage in ("spectron", "ctc", "text_lm"):
        tiny_checkpoints.save(folder, stage)
    tiny_checkpoints.save(folder / "later", "text_lm", seed=1)
    (folder / "nq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def test_spoken_qa_from_texts_to_report(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["evaluate", "spoken-qa", "--checkpoint", str(run / "spectron"), "--asr", str(run / "ctc")]
    command += ["--cascade-lm", str(run / "text_lm"), "--questions", f"NQ={run / 'nq.jsonl'}", "--limit", "2"]
    command += ["--prompt", "q: {question}\\na:", "--max-tokens", "6", "--batch-size", "2"]
    command += ["--set", "data.max_continuation_seconds=0.4", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "**Answers**" in said and "| NQ, cascade |" in said and "report.html" in said
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert set(first) == {"results.json", "results.md", "items.jsonl", "report.html"}
    results = json.loads(first["results.json"])
    assert [judge["role"] for judge in results["judges"]] == ["speech recogniser", "cascade lm"]
    assert all(judge["name"] and judge["version"] and judge["checksum"] for judge in results["judges"])
    assert results["facts"]["prompt"] == "q: {question}\na:" and results["facts"]["max_tokens"] == 6
    assert results["data"][0]["synthesised"] == 2 and results["data"][0]["voice"] == "en-us"
    lines = [json.loads(line) for line in first["items.jsonl"].decode().splitlines()]
    assert [line["id"] for line in lines] == ["0", "2"]
    assert any(line["said"]["text LM"][0]["text"] for line in lines), "an untrained LM writes something"
    assert all(0 < line["seconds"][0] <= 0.4 and line["question_seconds"] > 0.5 for line in lines)
    for name in first:
        (tmp_path / "out" / name).unlink()
    assert main(command) == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    assert again == first, "a second run has nothing left to do and says the same"


def test_knowledge_of_two_checkpoints(run, tmp_path, capsys):
    command = ["evaluate", "knowledge", "--before", str(run / "text_lm"), "--after", str(run / "later" / "text_lm")]
    command += ["--questions", str(run / "nq.jsonl"), "--prompt", "{question}", "--out", str(tmp_path)]
    assert main([*command, "--max-tokens", "5"]) == 0
    assert "| after less before | still right |" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    before, after = results["judges"]
    assert (before["role"], after["role"]) == ("lm before", "lm after") and before["checksum"] != after["checksum"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--questions", "nowhere.jsonl"], "'nowhere.jsonl' do not exist"),
        (["--limit", "-1"], "--limit -1"),
        (["--prompt", "who?"], "--prompt 'who?' must hold"),
        (["--asr", "nowhere"], "nowhere"),
        (["--voice", "en-us+nobody"], "nobody"),
        (["--set", "data.max_token=3"], "max_token"),
        (["--cascade-lm", "TEXT"], "give --asr too"),
        (["--out", "FILE/below"], "is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(run, tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = [flag.replace("TEXT", str(run / "text_lm")).replace("FILE", __file__) for flag in flags]
    command = ["evaluate", "spoken-qa", "--checkpoint", str(run / "spectron"), "--out", str(tmp_path / "out")]
    command += [] if "--questions" in flags else ["--questions", str(run / "nq.jsonl")]
    assert main([*command, *flags]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("spectron: ") and said in error


@pytest.mark.parametrize("limit", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_published_questions_from_audio_to_report(run, data_dir, tmp_path, monkeypatch, limit):
    """The authors' recordings of LLaMA-Questions, and WebQuestions that nobody recorded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["evaluate", "spoken-qa", "--checkpoint", str(run / "spectron"), "--asr", str(run / "ctc")]
    command += ["--questions", f"LLaMA-Questions={data_dir / 'spectron_samples'}", "--limit", str(limit)]
    command += ["--questions", str(data_dir / "webquestions" / "test.jsonl"), "--batch-size", "4"]
    command += ["--out", str(tmp_path / "out")]
    assert main(command) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    recorded, spoken = results["data"]
    assert (recorded["items"], recorded["synthesised"]) == (min(limit, 6), 0)
    assert (spoken["name"], spoken["items"], spoken["synthesised"]) == ("webquestions test", limit, limit)
    assert (tmp_path / "out" / "report.html").read_text().count("<tr data-state") == limit + min(limit, 6)
