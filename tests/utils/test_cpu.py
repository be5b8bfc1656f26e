"""What a process does before it computes on the CPU."""

import platform

import pytest

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


FLAGS = """
import os, sys
from spectron.utils import cpu

cpu._ACCELERATORS = ("/",) if sys.argv[1] == "accelerator" else ()
os.environ["XLA_FLAGS"] = sys.argv[2]
cpu.prepare()
print(os.environ["XLA_FLAGS"])
"""


@pytest.mark.parametrize(
    ("device", "before", "after"),
    [
        ("cpu", "", "--xla_cpu_use_fusion_emitters=false"),
        ("cpu", "--xla_dump_to=d", "--xla_dump_to=d --xla_cpu_use_fusion_emitters=false"),
        ("cpu", "--xla_cpu_use_fusion_emitters=true", "--xla_cpu_use_fusion_emitters=true"),
        ("accelerator", "", ""),
    ],
)
def test_xla_compiles_as_the_user_says_or_else_with_the_faster_fusions(run_python, device, before, after):
    assert run_python(FLAGS, device, before).stdout.strip() == after
