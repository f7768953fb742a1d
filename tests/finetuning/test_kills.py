"""kill -9 at random moments, also inside a save: the run ends as if nothing had been."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from resnet_hub.results import RunReport

from .conftest import environment, events_without_time
from .runs import (
    HALF,
    SMALL,
    STEPS,
    ForkServer,
    assert_same_run,
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
    found_half_written = number = 0
    while sum(kills.values()) < 12:
        folder = tmp_path / str(number)
        number += 1
        ledger = {"fault": "ledger", "file": f"{folder}.ledger"}
        slow_disk = {"fault": "slow_disk", "seconds": 0.02}
        options = ("--dataloader_num_workers", workers)
        for moment in kills:
            process = server.start(folder, *options, faults=[ledger, slow_disk])
            if wait_for(moment, process, folder, generator):
                kill_group(process)
                kills[moment] += 1
            code = server.wait(process)
            assert code in (0, -signal.SIGKILL), log_of(folder).read_text()
            found_half_written += is_saving(folder)
            if code == 0:
                break
        if code != 0:
            assert server.run(folder, *options, faults=[ledger]) == 0, log_of(folder).read_text()
        assert_same_run(folder, uninterrupted)
        assert not is_saving(folder)
        assert ledger_of(Path(f"{folder}.ledger")) == ledger_of(uninterrupted.with_name("ledger"))
    assert found_half_written >= 3, "hardly any kill fell into a save, so the test did not test it"


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
    assert server.run(folder, faults=[happens("loop.train_step", "SIGTERM", call=16)]) == 75
    assert "step-00000016" in saved(folder)
    return folder


def goes_on(server: ForkServer, stopped: Path, tmp_path: Path, **options) -> Path:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    with (folder / "metrics.jsonl").open("a") as log:  # as a kill some steps later leaves it
        log.write('{"event": "train", "step": 20, "epoch": 3.3, "time": 0, "loss": 9.9}\n')
    assert server.run(folder, **options) == 0, log_of(folder).read_text()
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


@pytest.fixture(scope="module")
def on_two(server: ForkServer, tmp_path_factory) -> Path:
    """The small run on two processes, done in one go."""
    folder = tmp_path_factory.mktemp("two") / "run"
    for process in server.start_two(folder):
        assert server.wait(process) == 0, log_of(folder).read_text()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_when_one_of_two_processes_is_killed_the_other_ends_too_and_the_run_goes_on(
    server: ForkServer, on_two: Path, tmp_path: Path
):
    generator = random.Random(0)
    killed: tuple[tuple[int, ...], ...] = ((0,), (1,), (0, 1), (1,), (0,), (0, 1))
    folder = tmp_path / "run"
    for ranks in killed:
        processes = server.start_two(folder)
        assert wait_for("after a save", processes[0], folder, generator)
        for rank in ranks:
            kill_group(processes[rank])
        ended = time.monotonic()
        codes = [server.wait(process) for process in processes]
        assert time.monotonic() - ended < 30
        assert all(codes), log_of(folder).read_text()
    for process in server.start_two(folder):
        assert server.wait(process) == 0, log_of(folder).read_text()
    assert_same_run(folder, on_two)


@pytest.mark.slow
def test_when_the_launcher_is_killed_its_processes_save_and_end_and_the_run_goes_on(
    on_two: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "resnet_hub.cli", "finetune", "--num_processes", "2", *SMALL, *HALF]
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


CYCLES = 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_forty_starts_and_kills_leave_nothing_behind(server: ForkServer, uninterrupted: Path, tmp_path: Path):
    """No processes, no shared memory, no temporary files, and no more files in the run's folder."""
    generator = random.Random(1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    folder = tmp_path / "run"
    counts, workers = [], set()
    for _ in range(CYCLES):
        options = ("--dataloader_num_workers", "1")
        process = server.start(folder, *options, TMPDIR=str(scratch))
        time.sleep(generator.uniform(0.2, 2.2))
        workers |= {child.pid for child in children_of(server)}
        kill_group(process)
        assert server.wait(process) in (0, -signal.SIGKILL)
        if (folder / "report.json").exists():
            assert_same_run(folder, uninterrupted)
            shutil.rmtree(folder)
        checkpoints = folder / "checkpoints"
        counts.append((files_in(scratch), files_in(checkpoints)))
    wait_until(lambda: not children_of(server))  # loader processes notice within seconds that they are alone
    assert not [name for name in names_in_shared_memory() if any(f"_{pid}_" in name for pid in workers)]
    temporary, checkpoints = zip(*counts, strict=True)
    assert max(temporary[-10:]) <= max(temporary[:10]), temporary
    assert max(checkpoints) <= 3, checkpoints  # two, and the one that is being written
    assert server.run(folder, TMPDIR=str(scratch)) == 0, log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)
    assert not is_saving(folder)


def files_in(folder: Path) -> int:
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def names_in_shared_memory() -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir()]


def children_of(server: ForkServer) -> list[psutil.Process]:
    return psutil.Process(server.process).children(recursive=True)


@pytest.mark.slow
def test_a_process_that_stops_and_goes_on_again_and_again_keeps_no_files_open(tmp_path: Path):
    """In one process, as in a notebook: its open files, threads and children do not grow from run to run."""
    counts = tmp_path / "counts"
    arguments = [*SMALL, "--output_dir", str(tmp_path / "run"), "--dataloader_num_workers", "1"]
    code = f"""
import os, signal, sys, threading
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import faults, psutil
from pathlib import Path
from resnet_hub.finetuning import loop
from resnet_hub.finetuning.__main__ import main
step, calls = loop.train_step, 0
def preempted(*arguments, **options):
    global calls
    calls += 1
    if calls % 2 == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(*arguments, **options)
loop.train_step = preempted
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
