"""Progress without a terminal."""

from spectron.utils import console


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    now = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.Progress(10, "measuring", "file", initial=2) as progress:
        for _ in range(4):
            progress.advance("1 failures")
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 4 of 10, 1 failures",
        "measuring: 6 of 10, 1 failures",
    ]
