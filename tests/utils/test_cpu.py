"""What a process does before it computes on the CPU."""

import platform

import pytest

from spectron.utils import cpu

AGAIN = """
import resource, sys
import numpy as np
from spectron.utils import cpu

if sys.argv[1] == "kept":
    cpu.keep_freed_memory()

def faults():
    np.ones(1 << 22)  # 32 MB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

faults()
print(-faults() + faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set up")
def test_a_freed_buffer_is_used_again_without_page_faults(run_python):
    assert int(run_python(AGAIN, "returned").stdout) > 100  # numpy asks for pages of 2 MB, or it were 8,192
    assert int(run_python(AGAIN, "kept").stdout) < 20


@pytest.mark.parametrize(
    ("before", "jaxlib", "after"),
    [
        ("", "0.10.2", "--xla_cpu_use_fusion_emitters=false"),
        ("--xla_dump_to=d", "0.10.2", "--xla_dump_to=d --xla_cpu_use_fusion_emitters=false"),
        ("--xla_cpu_use_fusion_emitters=true", "0.10.2", "--xla_cpu_use_fusion_emitters=true"),
        ("", "0.11.2", ""),  # an unknown flag ends the process
        ("--xla_dump_to=d", "0.12.0.1", "--xla_dump_to=d"),
    ],
)
def test_xla_compiles_as_the_user_says_or_else_by_what_is_faster(before, jaxlib, after):
    assert cpu.xla_flags(before, jaxlib) == after


FLAGS = """
import os, sys
from spectron.utils import cpu

cpu._ACCELERATORS = ("/",) if sys.argv[1] == "accelerator" else ()
os.environ["XLA_FLAGS"] = ""
cpu.prepare()
import jax
assert jax.numpy.ones(2).sum() == 2  # XLA knows the flags
print("set" if os.environ["XLA_FLAGS"] else "not set")
"""


def test_on_a_machine_with_an_accelerator_nothing_is_set(run_python):
    assert run_python(FLAGS, "accelerator").stdout.strip() == "not set"
    run_python(FLAGS, "cpu")
