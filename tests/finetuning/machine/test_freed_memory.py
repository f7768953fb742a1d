"""What a step frees is not given back to the system, so that the next step does not have to ask for it."""

import platform
import subprocess
import sys

import pytest

# Page faults of the second of two equal arrays: those of the first are unavoidable.
FAULTS = """
import resource
import numpy as np
from resnet_hub.finetuning.machine.cpu import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, dtype=np.uint8)  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
usual = faults()
assert keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has its own habits")
def test_an_array_as_large_as_one_that_was_freed_costs_no_page_faults():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual > 25  # pages are of 4 KiB or 2 MiB
    assert kept < usual / 4


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    from resnet_hub.finetuning.machine.cpu import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
