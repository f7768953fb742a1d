"""kill -9 at random moments, also inside a save: the run ends as if nothing had been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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
KILLS_PER_RUN = 3


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

    def start(self, folder: Path, *arguments: str) -> int:
        """The process number of a new run into the folder."""
        command = [f"{folder}.log", *RUN, "--output_dir", str(folder), *arguments]
        self._say(json.dumps(command))
        return int(self._hear("started"))

    def wait(self) -> int:
        """The exit code of the run that was started last; negative for a signal."""
        return int(self._hear("ended"))

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def _say(self, line: str) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(line + "\n")
        self._server.stdin.flush()

    def _hear(self, wanted: str) -> str:
        assert self._server.stdout is not None
        word, value = self._server.stdout.readline().split()
        assert word == wanted
        return value


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def uninterrupted(server: ForkServer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    server.start(folder)
    assert server.wait() == 0, Path(f"{folder}.log").read_text()
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


def kill_at_a_moment(process: int, folder: Path, moment: str, generator: random.Random) -> bool:
    """Kill the process group after it has written a checkpoint, or while it does; False if it ended first."""
    before = saved(folder)
    while is_alive(process) and not saved(folder) - before:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.5))
    while moment == "in a save" and is_alive(process) and not is_saving(folder):
        pass  # a save takes milliseconds, and a sleep would miss it
    if not is_alive(process):
        return False
    os.killpg(process, signal.SIGKILL)
    return True


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_ten_kills_after_and_inside_saves_change_nothing(
    workers: str, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    generator = random.Random(int(workers))
    kills = {"after a save": 0, "in a save": 0}
    found_half_written = number = 0
    while sum(kills.values()) < 10:
        folder = tmp_path / str(number)
        number += 1
        for _ in range(KILLS_PER_RUN):
            process = server.start(folder, "--dataloader_num_workers", workers)
            moment = min(kills, key=lambda name: kills[name])
            kills[moment] += kill_at_a_moment(process, folder, moment, generator)
            code = server.wait()
            assert code in (0, -signal.SIGKILL), Path(f"{folder}.log").read_text()
            found_half_written += is_saving(folder)
            if code == 0:
                break
        if code != 0:
            server.start(folder, "--dataloader_num_workers", workers)
            assert server.wait() == 0, Path(f"{folder}.log").read_text()
        assert_same_run(folder, uninterrupted)
        assert not is_saving(folder)
    assert found_half_written >= 3, "hardly any kill fell into a save, so the test did not test it"


def test_the_log_of_a_killed_run_shows_each_step_once(uninterrupted: Path):
    """What `assert_same_run` compares holds every step: an event for each ten of them and each validation."""
    events = events_without_time(uninterrupted)
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(10, 61, 10))
