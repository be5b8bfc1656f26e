"""What a person sees of training: the progress line, the bar, and the table at a stage's end."""

import io
import json
import sys
import time

import pytest

from spectron.config import CTCConfig, JointConfig, StreamConfig, TextLMConfig
from spectron.objectives.base import main_metrics
from spectron.training.metrics import MetricsLog, Work
from spectron.utils.console import columns, duration, speed


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a test moves it: clock(seconds)."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def metrics(value):
    names = ("loss", "ctc", "delta_freq", "delta_time_1", "grad_norm", "learning_rate")
    return {name: value + i for i, name in enumerate(names)}


def train(log, clock, first, last, seconds=0.5):
    for step in range(first + 1, last + 1):
        clock(seconds)
        log.add(step, metrics(float(step)), Work(8, 16.0))


def test_a_line_has_step_main_figures_speed_and_time_left(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 0, 1000, 100, main=["ctc"])
    train(log, clock, 0, 200)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "ctc 1/1000  ctc 2"
    assert second == "ctc 100/1000  ctc 52  2 steps/s  7 min 30 s left"
    assert third == "ctc 200/1000  ctc 152  2 steps/s  6 min 40 s left"
    written = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {*metrics(0.0), "step_seconds", "examples_per_second", "padding"} <= set(written)


def test_time_left_counts_no_compilation_and_no_validation(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 0, 1000, 50, main=["ctc"])
    clock(300)  # the first step compiles
    train(log, clock, 0, 25)
    clock(120)  # another shape compiles
    log.pause(120)
    train(log, clock, 25, 50)
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 steps/s  7 min 55 s left")


def test_speed_is_that_of_the_last_steps(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 0, 1000, 500, main=["ctc"])
    train(log, clock, 0, 250, seconds=0.1)
    train(log, clock, 250, 500, seconds=2)
    assert capsys.readouterr().out.splitlines()[-1].endswith("2 s/step  16 min 40 s left")


def test_a_line_has_at_most_100_columns(tmp_path, clock, capsys):
    names = [f"a_metric_with_a_long_name_{i}" for i in range(4)]
    log = MetricsLog(tmp_path, "continuation", 99_000, 100_000, 500, main=names)
    for step in range(99_001, 99_501):
        clock(0.7)
        log.add(step, {"loss": 1.0, **dict.fromkeys(names, 0.123456)}, Work(8, 1.0))
    line = capsys.readouterr().out.splitlines()[-1]
    assert len(line) <= 100 and "name_0 0.123" in line and line.endswith("1.43 steps/s  5 min 50 s left")


def test_without_a_main_metric_the_loss_is_shown(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "mine", 0, 10, 5, main=["nothing"])
    train(log, clock, 0, 5)
    assert "loss 3" in capsys.readouterr().out.splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_it_is_one_bar(tmp_path, clock, monkeypatch):
    out, error = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("COLUMNS", "200")
    log = MetricsLog(tmp_path, "ctc", 0, 300, 10, main=["ctc"])
    train(log, clock, 0, 250)
    log.validation(250, {"word_error_rate": 0.25})
    log.close()
    assert out.getvalue() == "ctc 250/300  validation_word_error_rate 0.25\n"
    drawn = [line for line in error.getvalue().split("\r") if line.strip()]
    assert all(len(line.rstrip()) <= 100 for line in drawn)
    assert drawn[-1].endswith("250/300, ctc 236  2 steps/s  25 s left")


def test_a_log_beside_a_terminal_has_the_lines(tmp_path, clock, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())  # spectron train … > log
    log = MetricsLog(tmp_path, "ctc", 0, 20, 10, main=["ctc"])
    train(log, clock, 0, 20)
    log.close()
    assert "ctc 10/20  ctc 7" in capsys.readouterr().out


def test_a_stage_ends_with_a_table(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 100, 200, 50, main=["ctc"])
    train(log, clock, 100, 200)
    log.validation(200, {"word_error_rate": 0.125})
    capsys.readouterr()
    log.summary(200)
    log.close()
    shown = capsys.readouterr().out
    assert shown.startswith("ctc: finished\n") and str(tmp_path) in shown
    rows = dict(line.strip().split(maxsplit=1) for line in shown.splitlines()[1:])
    assert rows["steps"] == "200, 100 of them now" and rows["time"] == "50 s"
    assert rows["speed"] == "2 steps/s, 16 examples/s"
    assert rows["ctc"] == "176.5" and rows["validation_word_error_rate"] == "0.125"
    assert all(name in rows["files"] for name in ("checkpoints", "metrics.jsonl")) and "grad_norm" not in rows


def test_a_stopped_stage_says_where(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 0, 200, 50, main=["ctc"])
    train(log, clock, 0, 60)
    log.summary(60)
    assert "ctc: stopped at step 60 of 200" in capsys.readouterr().out


def test_other_hosts_print_nothing(tmp_path, clock, capsys):
    log = MetricsLog(tmp_path, "ctc", 0, 20, 10, write=False)
    train(log, clock, 0, 20)
    log.validation(20, {"word_error_rate": 0.5})
    log.summary(20)
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_objectives_name_their_main_metrics():
    joint, ctc, text = (StreamConfig(kind(), "m") for kind in (JointConfig, CTCConfig, TextLMConfig))
    assert main_metrics([ctc], 4) == ["ctc"]
    assert main_metrics([joint], 4) == ["text_accuracy", "frames", "stop"]
    assert main_metrics([joint, text], 4) == ["text_accuracy", "text_lm", "frames", "text_lm_accuracy"]
    assert main_metrics([ctc, ctc], 4) == ["ctc_0/ctc", "ctc_1/ctc"]


def test_durations_speeds_and_columns():
    assert [duration(s) for s in (0.4, 59, 245, 7500, 360_000)] == [
        "0 s",
        "59 s",
        "4 min 05 s",
        "2 h 05 min",
        "4 d 04 h",
    ]
    assert [speed(s) for s in (0.016, 0.5, 2.5)] == ["62.5 steps/s", "2 steps/s", "2.5 s/step"]
    assert columns([("a", "bb"), ("ccc", "d")], indent=" ") == " a    bb\n ccc  d"
