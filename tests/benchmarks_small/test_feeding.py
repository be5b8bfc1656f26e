"""The benchmark of feeding runs, its contenders make the same batches, and what a chip eats is taken from a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'parity' is not installed")
pytest.importorskip("array_record", reason="the extra 'data' is not installed")

from benchmarks import feeding

from spectron.audio import wav

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "compiled.json"
    seconds = {"compute": 0.2, "memory": 0.05, "ici": 0.4, "dcn": 0.0}
    facts = {"config": "c", "topology": "v5e:2x2", "chips": 4, "speech_seconds": 1600.0, "seconds": seconds}
    path.write_text(json.dumps(facts | {"bound": "ici"}))
    return path


def test_what_a_chip_eats_is_a_steps_speech_over_its_slowest_part(report):
    line, rate = feeding.eaten(report)
    assert rate == pytest.approx(1600 / 0.4 / 4)
    assert "400.0 ms" in line
    assert "1,000 s/s a chip" in line


def test_it_runs_and_all_contenders_make_the_same_batches(report, tmp_path):
    book = tmp_path / "data" / "LibriSpeech" / "some-split" / "1" / "2"
    rng = np.random.default_rng(0)
    for i in range(40):
        wav.write(book / f"1-2-{i:04}.flac", (rng.normal(size=16_000 + 100 * i) * 500).astype(np.int16), 16_000)
    (book / "1-2.trans.txt").write_text("".join(f"1-2-{i:04} SAY {i}\n" for i in range(40)))
    folders = ["--data", tmp_path / "data", "--work", tmp_path / "work", "--report", report]
    done = subprocess.run(
        [sys.executable, ROOT / "tests/benchmarks/feeding.py", *folders, "--rounds=1", "--batches=2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for words in (
        "| ours, ArrayRecord |",
        "| DataLoader, FLAC files |",
        "| DataLoader, ArrayRecord |",
        "cores per chip",
    ):
        assert words in done.stdout
