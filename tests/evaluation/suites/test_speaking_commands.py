"""`spectron evaluate continuation` and `probes` on checkpoints of untrained models: files, exit codes, one sentence."""

import json

import numpy as np
import pytest
import soundfile
import tiny_checkpoints
from cli.test_cli import one_sentence, write_checkpoint

from spectron import cli
from spectron.checkpoints.checkpoint import Checkpoint
from spectron.evaluation.suites.generation import configured, load_generator, plan_of
from spectron.inference.api import Spectron


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of a Spectron, of a recogniser and of a manifest of three tones."""
    folder = tmp_path_factory.mktemp("commands")
    lines = []
    for i in range(3):
        t = np.arange(round((1.8 + 0.1 * i) * 16_000)) / 16_000
        soundfile.write(folder / f"{i}.wav", 0.3 * np.sin(2 * np.pi * (200 + 50 * i) * t), 16_000)
        text = " ".join(["zero", "one", "two", "three"][i:])
        lines.append(json.dumps({"id": f"u{i}", "audio": f"{i}.wav", "text": text, "split": "test"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    speaking = write_checkpoint(folder / "run", "spectron", "joint")
    return {"speaking": str(speaking), "hearing": str(write_checkpoint(folder / "ears", "ctc", "speech")),
            "task": f"manifest:{folder}"}  # fmt: skip


def evaluate(made, suite, out, *flags):
    task = ["--task", made["task"], "--split", "test", "--checkpoint", made["speaking"], "--out", str(out)]
    return cli.main(["evaluate", suite, *task, *flags])


def test_continuation_from_files_to_figures(made, tmp_path, capsys):
    flags = ["--prompt-seconds", "0.6", "--asr", made["hearing"], "--batch-size", "2", "--seeds", "2"]
    flags += ["--set", "data.max_continuation_seconds=1.5"]
    assert evaluate(made, "continuation", tmp_path, *flags) == 0
    assert "| ground truth, copy synthesis |" in capsys.readouterr().out
    results = (tmp_path / "results.json").read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert page.count("<audio") == 3 * 3 and page.count("<img") == 3, "prompt, answer and truth of three items"
    held = json.loads(results)
    assert held["data"][0]["items"] == 3 and held["facts"]["decoding_seeds"] == 2
    assert held["tables"][0]["rows"]["Spectron"]["seconds"]["n"] == 3
    assert held["judges"][0]["name"].startswith("ctc ") and held["judges"][0]["checksum"]
    assert evaluate(made, "continuation", tmp_path, *flags) == 0
    assert (tmp_path / "results.json").read_bytes() == results
    capsys.readouterr()
    assert evaluate(made, "continuation", tmp_path, *flags, "--seeds", "3", "--prompt-seconds", "0.7") == 2
    one_sentence(capsys.readouterr().err, "another set of prompts", "--out")


@pytest.mark.slow
def test_probes_of_any_task(made, tmp_path, capsys):
    flags = ["--asr", made["hearing"], "--prompts", "0.4", "1.2", "--text", "two", "--seeds", "1", "--batch-size", "3"]
    shorter = [
        "--set",
        "data.prompt_seconds=0.8",
        "data.min_continuation_seconds=0.4",
        "data.max_continuation_seconds=1.3",
    ]
    assert evaluate(made, "probes", tmp_path, *flags, *shorter) == 0
    out = capsys.readouterr().out
    for row in (
        "full",
        "without text",
        "null tokens",
        "true text",
        "another's text",
        "text 'two'",
        "prompt of 0.4 s",
        "prompt of 1.2 s",
    ):
        assert f"\n| {row} | " in out


@pytest.mark.parametrize(
    ("suite", "flags", "words"),
    [
        ("continuation", ["--prompt-seconds", "-1"], ["--prompt-seconds"]),
        ("continuation", ["--prompt-seconds", "0.00001"], ["--prompt-seconds 1e-05", "a frame", "0.0125 seconds"]),
        ("probes", ["--prompts", "0.5", "0.00001"], ["--prompts 1e-05", "a frame", "0.0125 seconds"]),
        ("continuation", ["--limit", "-1"], ["--limit"]),
        ("continuation", ["--task", "nothing"], ["--task 'nothing'"]),
        ("continuation", ["--split", "dev"], ["no usable example"]),
        ("probes", ["--prompts", "0"], ["--prompts 0"]),
        ("probes", ["--prompts", "0.5", "9"], ["no usable example"]),
        ("probes", ["--set", "features.sample_rate=17000"], ["features.sample_rate=17000"]),
        (
            "continuation",
            ["--prompt-seconds", "0.6"],
            ["3 with more after the prompt", "data.max_continuation_seconds=0.5"],
        ),
        ("continuation", ["--prompt-seconds", "nan"], ["--prompt-seconds nan"]),
        ("continuation", ["--lm", "nowhere"], ["give --asr too"]),
        ("continuation", ["--asr", "nowhere", "--out", f"{__file__}/out"], ["--out", "is not a folder"]),
        ("probes", ["--prompts", "nan"], ["--prompts nan"]),
        ("probes", ["--judges", "x"], ["--judges", "without --task"]),
        ("probes", ["--repeats", "1"], ["--repeats", "without --task"]),
        ("probes", ["--task", "", "--dnsmos"], ["--dnsmos", "another --task"]),
        ("probes", ["--text", "one " * 99], ["--text", "max_tokens"]),
    ],
)
def test_what_cannot_be_is_one_sentence(made, suite, flags, words, tmp_path, capsys):
    assert evaluate(made, suite, tmp_path / "out", *flags) == 2
    one_sentence(capsys.readouterr().err, *words)
    assert not (tmp_path / "out").exists()


def test_a_model_without_digits_has_no_counting_world(made, tmp_path, capsys):
    command = ["evaluate", "probes", "--checkpoint", made["speaking"], "--out", str(tmp_path / "out")]
    assert cli.main(command) == 2
    one_sentence(capsys.readouterr().err, "digits")


@pytest.fixture
def twins(tmp_path):
    """Two checkpoints of other weights that will stand in the same place, one after the other."""
    return [tiny_checkpoints.save(tmp_path / str(seed), "spectron", seed=seed) for seed in (0, 1)]


def test_another_model_in_the_same_place_is_another_model(twins):
    first, second = (Checkpoint.open(folder).facts for folder in twins)
    made = configured(Spectron.from_checkpoint(twins[0]), ())
    plans = [plan_of(made, {**facts, "checkpoint": "here"}) for facts in (first, second)]
    assert plans[0] != plans[1] and plans[0]["weights"] == first["weights"]


def test_settings_reach_all_that_follows_from_them(twins):
    generator = configured(Spectron.from_checkpoint(twins[0]), ["data.max_prompt_seconds=0.75"])
    assert generator.prompt_size == 12_000 and generator.experiment.data.max_prompt_seconds == 0.75
    loaded, facts = load_generator(twins[0], ["data.max_prompt_seconds=0.75"], 1, 1, 0)
    assert loaded.prompt_size == 12_000 and facts["weights"] == Checkpoint.open(twins[0]).facts["weights"]
