"""A disk that fills up in the middle of a run costs checkpoints in between, and nothing else.

The system refuses to write files beyond a size, which it can be told for a process that runs already: the
error is another one than that of a full disk (EFBIG), and comes at the same places.
"""

import os
import resource
import signal
from pathlib import Path

import pytest

from .conftest import events_without_time
from .runs import ForkServer, assert_same_run, log_of, saved, wait_until, weights_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SLOWLY = [{"fault": "slow_disk", "seconds": 0.02}]
SMALLER_THAN_THE_WEIGHTS = 500_000  # bytes; the records of a run are smaller
SMALLER_THAN_THE_OPTIMIZER = 1_500_000  # the weights of my_resnet20 take 1.1 MB


def start_and_fill_the_disk(server: ForkServer, folder: Path, num_bytes: int) -> int:
    """A run whose files cannot become larger than this once it has saved a checkpoint."""
    process = server.start(folder, faults=SLOWLY)
    wait_until(lambda: saved(folder))
    resource.prlimit(process, resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
    return process


def test_a_run_goes_on_without_checkpoints_and_ends_the_same(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start_and_fill_the_disk(server, folder, SMALLER_THAN_THE_OPTIMIZER)
    assert server.wait(process) == 0, log_of(folder).read_text()
    assert "No checkpoint could be written at step" in log_of(folder).read_text()
    assert weights_hash(folder) == weights_hash(uninterrupted)
    assert events_without_time(folder) == events_without_time(uninterrupted)


def test_an_export_that_cannot_be_written_ends_with_1_and_the_same_command_goes_on(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start_and_fill_the_disk(server, folder, SMALLER_THAN_THE_WEIGHTS)
    assert server.wait(process) == 1, log_of(folder).read_text()
    said = log_of(folder).read_text()
    assert "The disk does not take what is written" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert saved(folder)
    assert not (folder / "report.json").exists()
    assert server.run(folder) == 0, log_of(folder).read_text()
    assert "going on from step" in log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


def test_a_signal_that_finds_the_disk_full_ends_with_1_and_names_what_is_whole(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start_and_fill_the_disk(server, folder, SMALLER_THAN_THE_WEIGHTS)
    os.kill(process, signal.SIGTERM)
    assert server.wait(process) == 1, log_of(folder).read_text()
    assert "could not be written" in log_of(folder).read_text()
    assert server.run(folder) == 0, log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)
