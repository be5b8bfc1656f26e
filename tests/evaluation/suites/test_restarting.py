"""Killed at random and started again, an evaluation ends in the same bytes and decodes nothing that it kept."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation.fakes_run import Ears, Quality, Reader, Talker, Voices
from evaluation.suites.test_continuation import FACTS, items

from spectron.evaluation.suites.continuation import continue_items
from spectron.evaluation.suites.judge_runner import Judges
from spectron.utils import chunk_cache

SCRIPT = Path(__file__).with_name("restarting.py")
KILLS = 10
FILES = ("results.json", "results.md", "items.jsonl", "report.html")


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_ten_random_ends_leave_the_same_bytes(tmp_path, monkeypatch):
    """Every write of a chunk may be the last, before or after it is there."""
    panel = Judges(Ears(), Reader(), Voices(), Quality())
    continue_items(Talker(), items(), tmp_path / "whole", panel, FACTS, 2, 1)
    rng, talker, kills = random.Random(1), Talker(), 0
    write = chunk_cache.write_bytes

    def fatal(path, content):
        nonlocal kills
        when = rng.randrange(6) if kills < KILLS else 9
        if when == 0:
            kills += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.x.part").write_bytes(content[:1])
            raise Killed
        write(path, content)
        if when == 1:
            kills += 1
            raise Killed

    monkeypatch.setattr(chunk_cache, "write_bytes", fatal)
    for _ in range(KILLS + 1):
        try:
            continue_items(talker, items(), tmp_path / "killed", panel, FACTS, 2, 1)
        except Killed:
            continue
        break
    assert kills > KILLS / 2  # the writers take turns as they come, so that the last ends may find nothing to write
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert set(talker.rows) == {(seed, row) for seed in range(2) for row in range(3)}
    assert len(talker.rows) <= 6 + KILLS, "only what was under way at a kill is said again"


@pytest.mark.slow
def test_a_process_killed_ten_times_goes_on(tmp_path):
    """SIGKILL at any moment, imports and compilation among them, but mostly while answers are made."""

    def start(out, log):
        with (tmp_path / "errors").open("w") as errors:
            return subprocess.Popen([sys.executable, SCRIPT, out, log], stdout=subprocess.DEVNULL, stderr=errors)

    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    assert start(whole, tmp_path / "log-whole").wait(300) == 0, (tmp_path / "errors").read_text()
    batches = [json.loads(line)["batch"] for line in (tmp_path / "log-whole").read_text().splitlines()]
    assert len(batches) == len(set(batches)) == 40
    rng, kills = random.Random(0), 0
    log.touch()
    while True:
        process = start(killed, log)
        if kills < KILLS:
            kill_after(process, log, rng)
        if process.wait(300) == 0:
            break
        assert process.returncode == -9, (tmp_path / "errors").read_text()
        kills += 1
    assert kills == KILLS, "it ended before it was killed often enough"
    for name in FILES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line["batch"] not in line["kept"] for line in lines), "a kept batch was decoded again"
    assert {line["batch"] for line in lines} == set(batches)
    assert len(lines) <= len(batches) + kills, "a kill costs one batch at the most"


def kill_after(process, log, rng):
    """Kill it a random moment after its next batch has begun, or sooner."""
    began, known = time.monotonic(), log.stat().st_size
    early = rng.random() < 0.2
    while process.poll() is None and log.stat().st_size == known and time.monotonic() - began < (2 if early else 200):
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.3))
    process.kill()
