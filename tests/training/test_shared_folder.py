"""A work folder on several hosts: a mount that lags is waited for, one that never catches up is a sentence."""

import pytest

from spectron.parallel import multihost
from spectron.training.shared_folder import check_shared, newest_step
from spectron.types import UserError


class Hosts:
    """Stands in for multihost.gather: this process's value beside those of another host, one for each call."""

    def __init__(self, monkeypatch, *others):
        self.others = list(others)
        monkeypatch.setattr(multihost, "gather", lambda value: [value, self.others.pop(0)])


def views(*steps):
    """What this process sees, each time it looks; the last one for ever."""
    left = list(steps)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_one_process_asks_nobody(tmp_path):
    check_shared(tmp_path / "new")
    assert newest_step(lambda: 7, tmp_path) == 7
    assert newest_step(lambda: None, tmp_path) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("steps", "other"), [((20, 20, 20, 40), 40), ((None, None, 5), 5), ((40,), 40), ((None,), None)]
)
def test_a_mount_that_lags_is_waited_for(steps, other, tmp_path, monkeypatch):
    Hosts(monkeypatch, str(other), str(other))
    assert newest_step(views(*steps), tmp_path) == other


def test_the_others_catch_up(tmp_path, monkeypatch):
    Hosts(monkeypatch, "20", "40")
    assert newest_step(lambda: 40, tmp_path) == 40


@pytest.mark.parametrize(("here", "there"), [(20, 40), (40, 20), (None, 40), (40, None)])
def test_hosts_that_disagree_are_one_sentence(here, there, tmp_path, monkeypatch):
    Hosts(monkeypatch, str(there), str(there))
    with pytest.raises(UserError, match=f"process 0 step {here}, process 1 step {there}"):
        newest_step(lambda: here, tmp_path, wait=0.3)
