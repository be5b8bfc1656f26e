"""The persistent compilation cache of commands and the Python API."""

USES = """
import jax
from spectron.utils.compilation_cache import use_compilation_cache

use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * {factor} + 1).lower(1.0).compile()
"""


def test_a_program_is_stored_and_one_that_was_half_written_hinders_nothing(run_python, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "spectron" / "jax"
    run_python(USES.format(factor=2))
    (stored,) = folder.glob("*-cache")
    stored.with_name(stored.name.removesuffix("-cache") + "-atime").unlink()  # as after kill -9
    warned = run_python(USES.format(factor=3)).stderr
    assert "cache" not in warned
    assert len(list(folder.glob("*-cache"))) == 1


def test_the_users_own_cache_is_left_alone(run_python, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    run_python(USES.format(factor=4))
    assert list((tmp_path / "mine").glob("*-cache"))
    assert not (tmp_path / "home").exists()


def test_a_cache_that_cannot_be_written_is_one_line(run_python, monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_MAX_SIZE")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    told = run_python(USES.format(factor=5)).stderr.splitlines()
    assert told == [
        f"{tmp_path}/file/spectron/jax cannot be written (Not a directory): programs are compiled at every start."
    ]
