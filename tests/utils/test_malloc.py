"""The allocator for computing on the CPU."""

import platform

import pytest

AGAIN = """
import resource, sys
import numpy as np
from spectron.utils import malloc

malloc._ACCELERATORS = ()
if sys.argv[1] == "kept":
    malloc.keep_freed_memory()

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
