"""A process that dies or hangs does not take the others with it into a wait without end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_hub.finetuning.machine.launcher import run_processes

from ..conftest import environment
from ..runs import (
    HALF,
    HERE,
    SMALL,
    ForkServer,
    assert_same_run,
    happens,
    kill_group,
    log_of,
    saved,
)

WORKERS = ("--dataloader_num_workers", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            happens("engine.step.train_step", "a loader process is killed", call=8),
            "SIGKILL, as when memory is short",
        ),
        (happens("batches.loader.keyed_randomness", "sleeps once", call=60), "No batch came for 5 s"),
    ],
    ids=["killed", "hangs"],
)
def test_loader_processes_that_die_or_hang_are_replaced_and_nothing_changes(
    fault: dict, said: str, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, happened = tmp_path / "run", tmp_path / "happened"
    options = (*WORKERS, "--ddp_timeout", "5")
    server.run(folder, *options, faults=[fault], HAPPENED=str(happened))
    assert time.time() - happened.stat().st_mtime < 60
    assert log_of(folder).read_text().count("they are replaced and the run continues") == 1
    assert said in log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_loader_processes_that_die_again_and_again_end_the_run_and_the_same_command_goes_on(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM", call=3)], code=75)
    # The picture of the first batch takes 28 images in the main process; the next one is a worker's.
    faults = [happens("batches.loader.keyed_randomness", "killed", call=29)]
    server.run(folder, *WORKERS, faults=faults, code=1)
    last = log_of(folder).read_text().splitlines()[-1]
    assert "twice at the same batch" in last
    assert "--dataloader_num_workers" in last
    assert "the same command resumes" in last
    server.run(folder, *WORKERS)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "rank", "said"),
    [
        ("raises", 1, "process 1 ended with ZeroDivisionError: a broken step"),
        ("raises", 0, "process 0"),
        ("sleeps", 1, "process 1 does not answer"),
        ("stopped", 1, "process 1 does not answer"),
        ("stopped", 0, "process 0 does not answer"),
    ],
)
def test_when_a_process_raises_or_hangs_the_other_one_says_so_and_ends(
    what: str, rank: int, said: str, server: ForkServer, tmp_path: Path
):
    folder, happened = tmp_path / "run", tmp_path / "happened"
    processes = server.start_two(
        folder,
        *("--ddp_timeout", "10"),
        faults=[happens("engine.step.train_step", what, call=9, rank=rank)],
        HAPPENED=str(happened),
    )
    assert server.wait(processes[1 - rank]) == 1, log_of(folder).read_text()
    assert time.time() - happened.stat().st_mtime < 60
    if what == "raises":
        assert server.wait(processes[rank]) == 1
    else:
        kill_group(processes[rank])  # as launchers do
        assert server.wait(processes[rank]) == -signal.SIGKILL
    last = "\n".join(log_of(folder).read_text().splitlines()[-20:])
    assert said in last
    assert "the same command resumes" in last
    if what == "raises":
        assert "ZeroDivisionError: a broken step" in last
    assert saved(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_the_launcher_ends_with_the_cause_in_its_last_lines(launcher: str, tmp_path: Path):
    program = [str(HERE / "faults.py"), *SMALL, *HALF, "--output_dir", str(tmp_path / "run")]
    faults = json.dumps([happens("engine.step.train_step", "raises", call=9, rank=1)])
    variables = environment(FAULTS=faults, ACCELERATE_USE_CPU="true")
    if launcher == "ours":
        code = "import sys; from resnet_hub.finetuning.machine import launcher as l; "
        code += "sys.exit(l.run_processes(sys.argv[1:], 2, environment={}))"
        command = [sys.executable, "-c", code, sys.executable, *program]
    else:
        torchrun = str(Path(sys.executable).parent / "torchrun")
        command = [torchrun, "--standalone", "--nproc_per_node", "2", *program]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=200)
    assert done.returncode == 1
    assert "ZeroDivisionError: a broken step" in "\n".join(done.stderr.splitlines()[-20:]), done.stderr
    again = environment(ACCELERATE_USE_CPU="true")
    done = subprocess.run(command, capture_output=True, text=True, env=again, check=False, timeout=200)
    assert done.returncode == 0, done.stderr


def test_a_process_that_hangs_is_ended_once_the_other_one_has_given_up():
    """SIGSTOP leaves it deaf to everything but SIGKILL."""
    code = "import os, signal, sys; os.environ['RANK'] == '0' or os.kill(os.getpid(), 19); sys.exit(3)"
    started = time.monotonic()
    assert run_processes([sys.executable, "-c", code], 2, environment={}, patience=1) == 3
    assert time.monotonic() - started < 20
