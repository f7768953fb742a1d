"""kill -9 at random moments, also inside a save: the run ends as if nothing had been."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from resnet_hub.results import RunReport

from ..conftest import environment, events_without_time
from ..runs import (
    HALF,
    SMALL,
    STEPS,
    ForkServer,
    assert_same_run,
    half_written,
    happens,
    is_alive,
    is_saving,
    kill_group,
    ledger_of,
    log_of,
    saved,
    wait_until,
)

MOMENTS = ("after a save", "in a save", "in start-up")


def wait_for(moment: str, process: int, folder: Path, generator: random.Random) -> bool:
    """Wait for the moment in the life of a process; False if it ended before."""
    before = saved(folder)
    while moment != "in start-up" and is_alive(process) and not saved(folder) - before:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.4))
    while moment == "in a save" and is_alive(process) and not is_saving(folder):
        time.sleep(0.001)
    return is_alive(process)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("workers", ["0", "2"])
def test_twelve_kills_in_start_up_after_and_inside_saves_change_nothing(
    workers: str, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    generator = random.Random(int(workers))
    kills = dict.fromkeys(MOMENTS, 0)
    inside_saves = number = 0
    while sum(kills.values()) < 12:
        folder = tmp_path / str(number)
        number += 1
        ledger = {"fault": "ledger", "file": f"{folder}.ledger"}
        slow_disk = {"fault": "slow_disk", "seconds": 0.02}
        options = ("--dataloader_num_workers", workers)
        for moment in kills:
            left = half_written(folder)
            process = server.start(folder, *options, faults=[ledger, slow_disk])
            if wait_for(moment, process, folder, generator):
                kill_group(process)
                kills[moment] += 1
            code = server.wait(process)
            assert code in (0, -signal.SIGKILL), log_of(folder).read_text()
            inside_saves += bool(half_written(folder) - left)
            if code == 0:
                break
        if code != 0:
            server.run(folder, *options, faults=[ledger])
        assert_same_run(folder, uninterrupted)
        assert not is_saving(folder)
        assert ledger_of(Path(f"{folder}.ledger")) == ledger_of(uninterrupted.with_name("ledger"))
    assert inside_saves >= 3, "hardly any kill fell into a save, so the test did not test it"


def test_a_run_sees_every_image_once_an_epoch_and_logs_every_step(uninterrupted: Path):
    """What the tests here compare holds something: all steps, their images, and an event for ten steps."""
    assert len(ledger_of(uninterrupted.with_name("ledger"))) == STEPS
    events = events_without_time(uninterrupted)
    assert [event["step"] for event in events if event["event"] == "train"] == [10, 20, 30]
    assert len([event for event in events if event["event"] == "validation"]) == 5


@pytest.fixture(scope="module")
def stopped(server: ForkServer, tmp_path_factory) -> Path:
    """The small run, ended in the middle of its third epoch, with its last checkpoint at step 16."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM", call=16)], code=75)
    assert "step-00000016" in saved(folder)
    return folder


def goes_on(server: ForkServer, stopped: Path, tmp_path: Path, **options) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    with (folder / "metrics.jsonl").open("a") as log:  # as a kill some steps later leaves it
        log.write('{"event": "train", "step": 20, "epoch": 3.3, "time": 0, "loss": 9.9}\n')
    server.run(folder, **options)
    return folder


def test_a_run_that_was_stopped_in_the_middle_of_an_epoch_ends_the_same(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = goes_on(server, stopped, tmp_path)
    assert_same_run(folder, uninterrupted)
    assert RunReport.load(folder / "report.json").resumed_from_step == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["order", "position", "randomness", "augmentation", "optimizer", "average", "log"]
)
def test_whatever_is_forgotten_on_the_way_is_noticed(
    what: str, server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    """The negative controls of the other tests: each part of the state matters to what they compare."""
    folder = goes_on(server, stopped, tmp_path, faults=[{"fault": "forgets", "what": what}])
    with pytest.raises(AssertionError):
        assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_its_results_leaves_no_halves(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    inside = (":hub.saving.refresh_card", ":hub.saving._check_reads_back", ":files._make_durable")
    halves = 0
    for at in ("finish.write_predictions", "finish.save_folder", *inside, "finish.write_page"):
        server.run(folder, faults=[happens(at, "killed")], code=-signal.SIGKILL)
        halves += sum(path.suffix == ".part" for path in folder.iterdir())
    assert halves == len(inside)
    server.run(folder)
    assert_same_run(folder, uninterrupted)
    assert files_of(folder) == files_of(uninterrupted)


@pytest.mark.slow
def test_epochs_that_are_shorter_than_their_checkpoints_do_not_all_get_one_but_the_last(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    """Each fsync takes 0.3 seconds here, and an epoch hardly more."""
    third_save = happens("training.state.write_checkpoint", "nothing", call=3)
    slow_disk = {"fault": "slow_disk", "seconds": 0.3}
    for name, faults in (("slow", [third_save, slow_disk]), ("fast", [third_save])):
        folder, happened = tmp_path / name, tmp_path / f"{name}.third"
        rarely = ("--checkpoint_minutes", "10")
        server.run(folder, *rarely, faults=faults, HAPPENED=str(happened))
        assert happened.exists() is (name == "fast")
        assert "step-00000030" in saved(folder)
        assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["after a save", "in a save"])
@pytest.mark.parametrize("ranks", [(0,), (1,), (0, 1)], ids=["the first", "the second", "both"])
def test_when_one_of_two_processes_is_killed_the_other_ends_too_and_the_run_goes_on(
    ranks: tuple[int, ...], moment: str, server: ForkServer, on_two: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    options = ("--dataloader_num_workers", "1")
    ledger = {"fault": "ledger", "file": f"{folder}.ledger"}
    slow_disk = {"fault": "slow_disk", "seconds": 0.02}
    processes = server.start_two(folder, *options, faults=[ledger, slow_disk])
    assert wait_for(moment, processes[0], folder, random.Random(len(ranks)))
    assert (moment == "in a save") <= is_saving(folder)
    family = [each for process in processes for each in family_of(process)]
    for rank in ranks:
        os.kill(processes[rank], signal.SIGKILL)
    ended = time.monotonic()
    codes = [server.wait(process) for process in processes]
    assert all(codes), log_of(folder).read_text()
    assert time.monotonic() - ended < 30
    wait_until(lambda: not any(map(lives, family)), seconds=30)
    server.run_two(folder, *options, faults=[ledger])
    assert_same_run(folder, on_two)
    ledger_of(Path(f"{folder}.ledger"))  # every image once an epoch, and again the same


@pytest.mark.slow
def test_when_the_launcher_is_killed_its_processes_save_and_end_and_the_run_goes_on(
    on_two: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "resnet_hub.cli.main", "finetune", "--num_processes", "2", *SMALL, *HALF]
    command += ["--output_dir", str(folder)]
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
    wait_until(lambda: saved(folder) or launcher.poll() is not None)
    processes = psutil.Process(launcher.pid).children()
    launcher.kill()
    launcher.wait()
    assert len(processes) == 2
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert "stopped by a signal" in (tmp_path / "log").read_text()
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, on_two)


CYCLES = 200


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_hundred_starts_and_kills_leave_nothing_behind(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    """No processes, no shared memory, no temporary files, and no more files in the run's folder."""
    folder, generator = tmp_path / "run", random.Random(1)
    counts, family = [], []
    for number in range(CYCLES):
        count, born = start_and_kill(server, folder, generator, spares_children=number % 2 == 0)
        counts.append(count)
        family += born
        if (folder / "report.json").exists():
            assert_same_run(folder, uninterrupted)
            assert files_of(folder) == files_of(uninterrupted)
            shutil.rmtree(folder)
    assert not has_grown(counts), counts
    wait_until(lambda: not any(map(lives, family)), seconds=30)  # loader processes notice that they are alone
    owners = {process.pid for process in family}
    assert not [name for name in names_in_shared_memory() if any(f"_{pid}_" in name for pid in owners)]
    server.run(folder)
    assert_same_run(folder, uninterrupted)
    assert files_of(folder) == files_of(uninterrupted)


@pytest.mark.slow
def test_a_run_that_leaves_a_temporary_folder_at_each_start_would_be_noticed(
    server: ForkServer, tmp_path: Path
):
    """The negative control of the test above."""
    generator, litters = random.Random(2), happens("run.prepare", "a temporary folder is left")
    counts = [
        start_and_kill(server, tmp_path / "run", generator, spares_children=True, faults=[litters])[0]
        for _ in range(20)
    ]
    assert has_grown(counts), counts


def start_and_kill(
    server: ForkServer,
    folder: Path,
    generator: random.Random,
    *,
    spares_children: bool,
    faults: Sequence = (),
) -> tuple[tuple[int, int], list[psutil.Process]]:
    """A life of a run: the numbers of temporary files and of files in its folder, and its processes."""
    scratch = folder.with_name("scratch")
    scratch.mkdir(exist_ok=True)
    options = ("--dataloader_num_workers", "1")
    process = server.start(folder, *options, faults=faults, TMPDIR=str(scratch))
    time.sleep(generator.uniform(0.1, 1.5))
    family = family_of(process)
    os.kill(process, signal.SIGKILL) if spares_children else kill_group(process)
    assert server.wait(process) in (0, -signal.SIGKILL)
    # multiprocessing has a socket there, and where all are killed at once nobody is left to remove it.
    left = [name for name in files_of(scratch) if not name.startswith("pymp-")]
    return (len(left), len(files_of(folder))), family


def has_grown(counts: Sequence[tuple[int, int]]) -> bool:
    """Whether there are more files at the end than there ever were in the first half."""
    half = len(counts) // 2
    return any(max(column[half:]) > max(column[:half]) + 1 for column in zip(*counts, strict=True))


def files_of(folder: Path) -> set[str]:
    """Files and folders of a folder, without the numbers of its checkpoints."""
    return {re.sub(r"step-\d+(-\d+)?", "step", str(path.relative_to(folder))) for path in folder.rglob("*")}


def names_in_shared_memory() -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir()]


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that nobody has asked about since it ended, has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family_of(process: int) -> list[psutil.Process]:
    """A process, unless it has ended, and all that it has started."""
    try:
        parent = psutil.Process(process)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
def test_a_process_that_stops_and_goes_on_again_and_again_keeps_no_files_open(tmp_path: Path):
    """In one process, as in a notebook: its open files, threads and children do not grow from run to run."""
    counts = tmp_path / "counts"
    arguments = [*SMALL, "--output_dir", str(tmp_path / "run"), "--dataloader_num_workers", "1"]
    code = f"""
import os, signal, sys, threading
sys.path[:0] = [{str(Path(__file__).parents[1])!r}]
import faults, psutil
from pathlib import Path
from resnet_hub.finetuning.engine import step as steps
from resnet_hub.finetuning.__main__ import main
train_step, calls = steps.train_step, 0
def preempted(*arguments, **options):
    global calls
    calls += 1
    if calls % 2 == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return train_step(*arguments, **options)
steps.train_step = preempted
for _ in range(8):
    assert main({arguments!r}) == 75
    me = psutil.Process()
    with Path({str(counts)!r}).open("a") as file:
        print(me.num_fds(), threading.active_count(), len(me.children()), file=file)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in counts.read_text().splitlines()]
    assert len(rows) == 8
    # A thread may be on its way out when they are counted; what grows has grown in each of the last three.
    fewest = [min(column) for column in zip(*rows[-3:], strict=True)]
    assert all(late <= third for late, third in zip(fewest, rows[2], strict=True)), rows
