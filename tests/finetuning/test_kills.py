"""kill -9 at random moments, also inside a save: the run ends as if nothing had been."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import TINY, environment, events_without_time
from .test_resume import assert_same_run

# Everything random is on, and a checkpoint is due after every tenth of a second.
RUN = (
    *TINY,
    *("--num_train_epochs", "6", "--per_device_train_batch_size", "64", "--gradient_accumulation_steps", "2"),
    *(
        "--mixup",
        "0.2",
        "--random_erasing",
        "0.3",
        "--ema",
        "--first_image_size",
        "4",
        "--layer_decay",
        "0.8",
    ),
    *("--checkpoint_minutes", "0.002"),
)


class ForkServer:
    """Starts fine-tuning commands; see fork_server.py."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def start(self, folder: Path, *arguments: str, **variables: str) -> int:
        """The process number of a new run into the folder, with these variables in its environment."""
        command = [*RUN, "--output_dir", str(folder), *arguments]
        return self._ask("start", f"{folder}.log", variables, command)

    def wait(self, process: int) -> int:
        """The exit code of a run; negative for a signal."""
        return self._ask("wait", process)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def _ask(self, *question: Any) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(server: ForkServer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert server.wait(server.start(folder)) == 0, Path(f"{folder}.log").read_text()
    return folder


def is_alive(process: int) -> bool:
    """Whether the process has not ended; one that has, and that nobody has asked about yet, is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("step-*")}


def is_saving(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".writing-*"))


def wait_for(moment: str, process: int, folder: Path, generator: random.Random) -> bool:
    """Wait for the moment in the life of a process; False if it ended before."""
    before = saved(folder)
    while moment != "in start-up" and is_alive(process) and not saved(folder) - before:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.5))
    while moment == "in a save" and is_alive(process) and not is_saving(folder):
        pass  # a save takes milliseconds, and a sleep would miss it
    return is_alive(process)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_twelve_kills_in_start_up_after_and_inside_saves_change_nothing(
    workers: str, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    generator = random.Random(int(workers))
    kills = dict.fromkeys(("after a save", "in a save", "in start-up"), 0)
    found_half_written = number = 0
    while sum(kills.values()) < 12:
        folder = tmp_path / str(number)
        number += 1
        for moment in kills:
            process = server.start(folder, "--dataloader_num_workers", workers)
            if wait_for(moment, process, folder, generator):
                os.killpg(process, signal.SIGKILL)
                kills[moment] += 1
            code = server.wait(process)
            assert code in (0, -signal.SIGKILL), Path(f"{folder}.log").read_text()
            found_half_written += is_saving(folder)
            if code == 0:
                break
        if code != 0:
            process = server.start(folder, "--dataloader_num_workers", workers)
            assert server.wait(process) == 0, Path(f"{folder}.log").read_text()
        assert_same_run(folder, uninterrupted)
        assert not is_saving(folder)
    assert found_half_written >= 2, "hardly any kill fell into a save, so the test did not test it"


def start_two(server: ForkServer, folder: Path) -> list[int]:
    """The same run on two processes, with the same images in every step."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options = ("--per_device_train_batch_size", "32")
    return [
        server.start(folder, *options, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_when_one_of_two_processes_is_killed_the_other_ends_too_and_the_run_goes_on(
    server: ForkServer, tmp_path: Path
):
    straight = tmp_path / "straight"
    for process in start_two(server, straight):
        assert server.wait(process) == 0, Path(f"{straight}.log").read_text()
    generator = random.Random(0)
    killed: tuple[tuple[int, ...], ...] = ((0,), (1,), (0, 1), (1,), (0,), (0, 1))
    folder = tmp_path / "run"
    for ranks in killed:
        processes = start_two(server, folder)
        assert wait_for("after a save", processes[0], folder, generator)
        for rank in ranks:
            os.killpg(processes[rank], signal.SIGKILL)
        ended = time.monotonic()
        codes = [server.wait(process) for process in processes]
        assert time.monotonic() - ended < 30
        assert all(codes), Path(f"{folder}.log").read_text()
    for process in start_two(server, folder):
        assert server.wait(process) == 0, Path(f"{folder}.log").read_text()
    assert_same_run(folder, straight)


@pytest.mark.slow
def test_the_log_of_a_killed_run_shows_each_step_once(uninterrupted: Path):
    """What `assert_same_run` compares holds every step: an event for each ten of them and each validation."""
    events = events_without_time(uninterrupted)
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(10, 61, 10))
