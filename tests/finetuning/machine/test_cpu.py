"""How threads wait is decided by what the processor does; memory that a step frees is there for the next."""

import multiprocessing
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from resnet_hub.cores import available_cores
from resnet_hub.finetuning.machine.cpu import keep_freed_memory

from ..conftest import environment


def work_for_ever() -> None:
    while True:
        pass


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """A process that works on every core."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work_for_ever, daemon=True) for _ in range(available_cores())]
    for worker in workers:
        worker.start()
    yield
    for worker in workers:
        worker.kill()


def policy(**variables: str) -> str:
    """What a run would find when torch is loaded."""
    code = (
        "import os; from resnet_hub.finetuning.machine.cpu import wait_without_spinning as wait; wait();"
        "print(os.environ.get('OMP_WAIT_POLICY', 'none'))"
    )
    inherited = {name: value for name, value in environment().items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_on_busy_cores_idle_threads_sleep(busy_cores: None):
    assert policy() == "PASSIVE"


def test_a_policy_that_the_user_has_set_stays(busy_cores: None):
    assert policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE"


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
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
