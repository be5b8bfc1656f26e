"""What every test starts from: JAX on the CPU with a compilation cache, fixed seeds, the data folder."""

import ctypes
import gc
import importlib.metadata
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook

from spectron.utils import cpu

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports jax, and in the environment, so that the processes which tests start inherit it.
os.environ["JAX_PLATFORMS"] = "cpu"
# No devices from outside: a test that wants more asks run_python for them.
os.environ["XLA_FLAGS"] = cpu.xla_flags("", importlib.metadata.version("jaxlib"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Compiling is most of what the tests do, and this takes a quarter off. Set it to 0 for XLA at its best.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax-tests")
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)  # a limit also makes jax lock it: tests run side by side
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

# Every shape in a signature is checked in every test. Not spectron.types: eval_shape, vmap and tree.map put into its
# structs what is no array, and they check themselves.
install_import_hook(["spectron.audio", "spectron.models"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Nothing in a test depends on what ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - of libraries that use the global generator


@pytest.fixture(scope="session", autouse=True)
def _trace_programs() -> Iterator[None]:
    """No program that was traced before: tests change what traced functions read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectron.utils.programs.keep_programs", lambda folder=None: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Free compiled programs, or a worker grows past 4 GB; they are read again from the cache on disk."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what XLA freed


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real recordings: $SPECTRON_DATA, or shared/data beside the repository."""
    named = os.environ.get("SPECTRON_DATA")
    if named:
        if not Path(named).is_dir():
            pytest.fail(f"SPECTRON_DATA={named} is not a folder")
        return Path(named)
    beside = ROOT.parent / "shared" / "data"
    if not beside.is_dir():
        pytest.skip("no real recordings here: set SPECTRON_DATA to a folder that holds fsdd/, librispeech_spk251/, …")
    return beside


@pytest.fixture(scope="session")
def run_python():
    """run_python(code, *arguments, devices=1) → a fresh interpreter's finished process; its failure fails the test."""

    def run(code: str, *arguments: str, devices: int = 1, timeout: float = 300) -> subprocess.CompletedProcess:
        # NPROC: XLA's threads. Collectives wait in them, and several devices can need more than there are cores.
        flag = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        several = {"XLA_FLAGS": flag, "NPROC": str(4 * devices)}
        flags = several if devices > 1 else {}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run
