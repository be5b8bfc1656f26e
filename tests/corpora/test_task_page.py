"""The page of `spectron data inspect`: everything in one file, and the figures are those of the data."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import soundfile

from spectron import cli
from spectron.config import load_experiment
from spectron.corpora import task_page
from spectron.data import batches, sources
from spectron.objectives import make_objective

CONFIG = """
from spectron.config import DataConfig, Experiment, JointConfig, MixtureConfig, StageConfig, StreamConfig, TaskConfig
def experiment():
    tasks = (TaskConfig("heard", "manifest"), TaskConfig("words", "text", root={text!r}))
    mixtures = (MixtureConfig("both", (("heard", 3.0), ("words", 1.0))),)
    data = DataConfig(root={root!r}, tasks=tasks, mixtures=mixtures, prompt_seconds=0.2, max_seconds=2.0,
                      min_continuation_seconds=0.1, buckets=(0.5, 1.0), row_multiple=1)
    stage = StageConfig("joint", (StreamConfig(JointConfig(), "both", 32),), 1)
    return Experiment("x", data, (stage,))
"""


@pytest.fixture
def config(tmp_path):
    records = []
    for i in range(170):
        size = 8_000 - 200 if i < 130 else 32_000
        samples = (3000 * np.sin(np.arange(size) * 0.1)).astype(np.int16) * (i != 169)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000)
        records.append(json.dumps({"id": f"r<{i}>", "audio": f"{i}.wav", "text": f"a & {i}", "speaker": "anna"}))
    records.append(json.dumps({"id": "nothing", "audio": "gone.wav", "text": "hm"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(records))
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    path = tmp_path / "c.py"
    path.write_text(CONFIG.format(root=str(tmp_path / "manifest.jsonl"), text=str(tmp_path / "t.txt")))
    return str(path)


def test_the_page_holds_sounds_pictures_and_figures(config, tmp_path, capsys):
    command = ["data", "inspect", "heard", "--config", config, "--count", "3", "--out", str(tmp_path / "out")]
    assert cli.main(command) == 0
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing from elsewhere
    assert page.count("<audio") == 3
    assert page.count("data:image/png") == 3 and page.count("<svg") == 1
    sound = base64.b64decode(re.search(r"data:audio/flac;base64,([^\"]+)", page).group(1))
    assert len(soundfile.read(io.BytesIO(sound))[0]) == 7_800
    assert "r&lt;0&gt;" in page
    assert "a &amp; 0" in page
    told = re.sub(r"<[^>]+>", " ", page)
    for words in ("usable records  170", "75.0 % (rate 3)", "that cannot be read", "gone.wav", "is silent"):
        assert words in told, words
    seconds = (130 * 7_800 + 40 * 32_000) / 16_000
    assert f"{100 * (1 - seconds / (170 * 2.0)):.1f} % of the samples" in told
    assert f"{100 * (1 - seconds / (130 * 0.5 + 40 * 2.0)):.1f} %" in told
    assert "130 records, batches of 128 rows" in told
    assert "inspect.html" in capsys.readouterr().err
    config = load_experiment(config)
    shares = task_page.padding(config, "heard", sources.source_of(config, "heard")).positions
    for share, buckets in zip(shares, ((), (0.5, 1.0)), strict=True):  # the same of batches that were made
        data = dataclasses.replace(config.data, buckets=buckets, reader="direct")
        feed = batches.make_feed(dataclasses.replace(config, data=data), "heard", 1)
        running = feed.batches()
        objective = make_objective(config.stages[0].streams[0].objective, config, None)
        counts = [objective.batch_positions(next(running)) for _ in range(170)]
        running.close()
        real, computed = np.sum(counts, axis=0)
        assert 1 - share == pytest.approx(real / computed, rel=0.02)  # another stands in for the silent one


def test_text_alone_has_a_page_too(config, tmp_path):
    assert cli.main(["data", "inspect", "words", "--config", config, "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "inspect.html").read_text()
    assert "text only" in page
    assert "25.0 % (rate 1)" in page
