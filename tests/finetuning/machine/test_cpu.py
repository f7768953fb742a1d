"""How threads wait is decided by what the processor does at the moment."""

import multiprocessing
import subprocess
import sys
from collections.abc import Iterator

import pytest

from resnet_hub.finetuning.machine.cpu import available_cores

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
