"""A process that waits for others hears signals, and what a launcher started ends when the launcher does."""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from ..conftest import environment
from ..runs import (
    HALF,
    HERE,
    SMALL,
    ForkServer,
    assert_same_run,
    free_port,
    happens,
    log_of,
    saved,
    two_on_a_cpu,
    wait_until,
)

SCRIPTS = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "signals"),
    [(0, ["SIGTERM"]), (1, ["SIGTERM"]), (0, ["SIGINT", "SIGINT"]), (1, ["SIGINT"]), (0, ["SIGUSR1"])],
    ids=str,
)
def test_a_process_that_waits_for_one_that_never_comes_hears_signals(
    rank: int, signals: Sequence[str], server: ForkServer, tmp_path: Path
):
    folder, happened = tmp_path / "run", tmp_path / "happened"
    process = server.start(
        folder,
        faults=[happens("prepare.start_machine", "nothing", rank=rank)],
        HAPPENED=str(happened),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        **two_on_a_cpu(free_port()),
    )
    wait_until(happened.exists)
    time.sleep(2)  # by then it waits, in C++
    sent = time.monotonic()
    for name in signals:
        os.kill(process, getattr(signal, name))
        time.sleep(0.1)
    assert server.wait(process) == 75
    assert time.monotonic() - sent < 10
    assert not folder.exists()


# Ours has its test beside those of other kills.
LAUNCHERS = {
    "torchrun": (SCRIPTS / "torchrun", "--standalone", "--nproc_per_node", "2"),
    "accelerate": (SCRIPTS / "accelerate", "launch", "--quiet"),
    "torchrun, through a shell": (
        *(SCRIPTS / "torchrun", "--standalone", "--nproc_per_node", "2", "--no_python"),
        *("sh", "-c", f'{sys.executable} "$0" "$@"; true'),
    ),
}


def start(launcher: str, folder: Path, *arguments: str, faults: Sequence[dict] = ()) -> psutil.Popen:
    program = [*LAUNCHERS[launcher], HERE / "faults.py", *SMALL, *arguments, "--output_dir", folder]
    variables = environment(FAULTS=json.dumps(faults), ACCELERATE_USE_CPU="true")
    with log_of(folder).open("ab") as log:
        return psutil.Popen([str(word) for word in program], stdout=log, stderr=log, env=variables)


def kill(launcher: psutil.Popen) -> None:
    """By SIGKILL, and nothing that it started is there half a minute later."""
    processes, memory = launcher.children(recursive=True), set(os.listdir("/dev/shm"))  # noqa: PTH208
    assert processes
    launcher.kill()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    launcher.wait()
    assert set(os.listdir("/dev/shm")) <= memory  # noqa: PTH208


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5, 3.0, 15.0])
def test_processes_whose_launcher_is_killed_while_they_start_end(seconds: float, tmp_path: Path):
    """One of the two never comes to where the other one waits for it."""
    folder = tmp_path / "run"
    launcher = start("torchrun", folder, faults=[happens("prepare.start_machine", "sleeps", rank=1)])
    wait_until(lambda: len(launcher.children()) == 2)
    time.sleep(seconds)
    kill(launcher)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_run_whose_launcher_is_killed_saves_and_ends_and_the_same_command_resumes(
    name: str, server: ForkServer, uninterrupted: Path, on_two: Path, tmp_path: Path
):
    folder, is_one = tmp_path / "run", name == "accelerate"
    launcher = start(name, folder, *(() if is_one else HALF), "--dataloader_num_workers", "1")
    wait_until(lambda: saved(folder))
    kill(launcher)
    assert "the same command resumes" in log_of(folder).read_text()
    if is_one:
        server.run(folder)
    else:
        server.run_two(folder)
    assert_same_run(folder, uninterrupted if is_one else on_two)
