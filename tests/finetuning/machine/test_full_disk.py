"""A disk that fills up, or is for reading only, costs checkpoints in between, and nothing else.

The system refuses to write files beyond a size, which it can be told for a process that runs already: the
error is another one than that of a full disk (EFBIG), and comes at the same places.
"""

import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from resnet_hub.finetuning.run_folder.checkpoint import find_damage

from ..conftest import TINY, events_without_time, finetune_command, run_command
from ..runs import SMALL, ForkServer, assert_same_run, happens, log_of, saved, wait_until, weights_hash

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
    assert "No checkpoint could be written at step" in server.ended([process], folder)
    assert weights_hash(folder) == weights_hash(uninterrupted)
    assert events_without_time(folder) == events_without_time(uninterrupted)


def test_events_that_find_no_room_wait_and_a_run_that_gets_room_again_ends_the_same(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, printed = tmp_path / "run", tmp_path / "printed"
    os.mkfifo(log_of(folder))  # a pipe: what the run prints is no file that could become too large
    with printed.open("wb") as file:
        reader = subprocess.Popen(["cat", log_of(folder)], stdout=file)
    process = server.start(folder, faults=SLOWLY)
    log = folder / "metrics.jsonl"
    wait_until(lambda: saved(folder) and log.exists() and log.stat().st_size)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (log.stat().st_size + 20, resource.RLIM_INFINITY))
    wait_until(lambda: b"its events wait in memory" in printed.read_bytes())
    newest = max(saved(folder))
    wait_until(lambda: b"No checkpoint could be written at step" in printed.read_bytes())
    assert max(saved(folder)) == newest
    assert all(find_damage(folder / "checkpoints" / name) is None for name in saved(folder))
    resource.prlimit(process, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert server.wait(process) == 0, printed.read_text()
    reader.wait(timeout=10)
    assert_same_run(folder, uninterrupted)


def without_the_right_to_write_everywhere(command: Sequence[str]) -> list[str]:
    """The superuser has it, and would not notice a folder that is for reading only."""
    if os.geteuid() != 0:
        return list(command)
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path):
    above = tmp_path / "read_only"
    above.mkdir()
    above.chmod(0o500)
    command = finetune_command(*TINY, "--output_dir", above / "run")
    done = run_command(without_the_right_to_write_everywhere(command))
    assert done.returncode == 2, done.stderr
    assert f"--output_dir {above / 'run'}: {above} cannot be written to" in done.stderr
    assert not (above / "run").exists()


def test_checkpoints_that_can_no_longer_be_written_cost_a_warning_each_and_no_run(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM", call=16)], code=75)
    (folder / "checkpoints").chmod(0o500)
    before = saved(folder)
    command = finetune_command(*SMALL, "--output_dir", folder)
    done = run_command(without_the_right_to_write_everywhere(command))
    assert done.returncode == 0, done.stderr
    assert "No checkpoint could be written at step" in done.stderr
    assert saved(folder) == before
    assert weights_hash(folder) == weights_hash(uninterrupted)
    assert events_without_time(folder) == events_without_time(uninterrupted)


def test_an_export_that_cannot_be_written_ends_with_1_and_the_same_command_goes_on(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start_and_fill_the_disk(server, folder, SMALLER_THAN_THE_WEIGHTS)
    said = server.ended([process], folder, code=1)
    assert "The disk does not take what is written" in said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert saved(folder)
    assert not (folder / "report.json").exists()
    server.run(folder)
    assert "resuming from step" in log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


def test_a_signal_that_finds_the_disk_full_ends_with_1_and_names_what_is_whole(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    process = start_and_fill_the_disk(server, folder, SMALLER_THAN_THE_WEIGHTS)
    os.kill(process, signal.SIGTERM)
    assert "could not be written" in server.ended([process], folder, code=1)
    server.run(folder)
    assert_same_run(folder, uninterrupted)
