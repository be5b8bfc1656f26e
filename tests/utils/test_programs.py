"""Programs that were traced before are found again, and only if nothing that decides them has changed."""

import dataclasses

import numpy as np
import pytest

from spectron.config import FeatureConfig
from spectron.utils import programs
from spectron.vocoders.griffin_lim import invert

FEATURES = FeatureConfig(num_mels=16, low_hz=100.0)
GIVEN = np.full((1, 64, 16), -3, np.float32), np.array([64]), np.int32(0), np.int32(2)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_folder", tmp_path)
    monkeypatch.setattr(programs, "_ready", {})
    return tmp_path


def run(monkeypatch, features=FEATURES, given=GIVEN):
    """The result, as a new process computes it, and whether the program was traced."""
    monkeypatch.setattr(programs, "_ready", {})
    traced = []
    export = programs.jax.export.export
    with monkeypatch.context() as patch:
        patch.setattr(programs.jax.export, "export", lambda *a, **k: traced.append(1) or export(*a, **k))
        return np.asarray(programs.call(invert, given, {"features": features}, like=0)), bool(traced)


def test_a_program_is_traced_once_and_gives_the_same_numbers(folder, monkeypatch):
    plain = np.asarray(invert(*GIVEN, features=FEATURES))
    for traced in (True, False):
        values, was_traced = run(monkeypatch)
        np.testing.assert_array_equal(values, plain)
        assert was_traced == traced
    assert len(list(folder.iterdir())) == 1


def test_what_decides_a_program_makes_another(folder, monkeypatch):
    run(monkeypatch)
    assert run(monkeypatch, features=dataclasses.replace(FEATURES, log_floor=1e-3))[1]
    assert run(monkeypatch, given=(np.full((1, 128, 16), -3, np.float32), *GIVEN[1:]))[1]
    monkeypatch.setattr(programs, "_surroundings", lambda: "another version of the source")
    assert run(monkeypatch)[1]
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("damage", [b"", b"half"])
def test_a_damaged_program_is_traced_again(folder, monkeypatch, damage):
    plain, _ = run(monkeypatch)
    (path,) = folder.iterdir()
    path.write_bytes(damage + path.read_bytes()[: 100 if damage else 0])
    values, traced = run(monkeypatch)
    assert traced
    np.testing.assert_array_equal(values, plain)
    assert not run(monkeypatch)[1]


def test_a_class_from_outside_is_always_traced(folder, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Own(FeatureConfig):
        pass

    own = Own(**dataclasses.asdict(FEATURES))
    np.testing.assert_array_equal(run(monkeypatch, features=own)[0], run(monkeypatch)[0])
    assert len(list(folder.iterdir())) == 1
