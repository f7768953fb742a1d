"""Whenever a signal asks a run to stop, it saves and ends within seconds, and the same command resumes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from resnet_hub import load
from resnet_hub.results import RunReport
from tests.hub_server.fixtures import child_environment
from tests.hub_server.server import HubServer

from ..conftest import ROOT, TINY, environment, finetune_command
from ..runs import HALF, SMALL, ForkServer, assert_same_run, happens, is_alive, log_of, saved, wait_until

# Where the signal comes, in which call, and the step of the newest checkpoint then; each goes on from there.
STATIONS = (
    ("prepare.load_data", 1, "SIGTERM", None),
    ("training.epochs.draw_batch", 1, "SIGTERM", 1),
    ("engine.step.train_step", 2, "SIGUSR1", 3),
    (":files._make_durable", 1, "SIGTERM", 5),  # in the save after step 4; noticed after the next step
    ("engine.step.train_step", 3, "SIGTERM twice", 8),
    ("training.epochs.evaluate", 1, "SIGTERM", 12),
    ("training.epochs.reestimate_batchnorm", 1, "SIGTERM", 12),
    ("finish.evaluate", 1, "SIGTERM", 30),
    ("finish.evaluate", 2, "SIGTERM", 30),
)
pytest_plugins = ["tests.hub_server.fixtures"]

EVERY_STEP = ("--checkpoint_minutes", "0.0001")


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_signal_at_every_station_of_a_run_changes_nothing(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, happened = tmp_path / "run", tmp_path / "happened"
    for at, call, what, step in STATIONS:
        faults = [happens(at, what, call=call)]
        server.run(folder, *EVERY_STEP, faults=faults, HAPPENED=str(happened), code=75)
        assert time.time() - happened.stat().st_mtime < 10
        newest = max(saved(folder), default=None)
        assert newest is None if step is None else str(newest).startswith(f"step-{step:08d}"), (at, newest)
    server.run(folder)
    assert_same_run(folder, uninterrupted)
    assert log_of(folder).read_text().count("the same command resumes") == len(STATIONS)


# The default: weights in the package, fc fitted first, then all layers.
BALANCED = (
    *("--dataset_name", "digits", "--train_split", "all[:240]", "--model", "my_resnet20"),
    *("--image_size", "8", "--horizontal_flip", "0", "--num_train_epochs", "2", "--mixed_precision", "no"),
)


@pytest.fixture(scope="module")
def balanced(server: ForkServer, tmp_path_factory) -> Path:
    """The default recipe, done in one go."""
    folder = tmp_path_factory.mktemp("balanced") / "run"
    server.run(folder, base=BALANCED)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("what", "code"), [("SIGTERM", 75), ("killed", -signal.SIGKILL)])
def test_the_default_recipe_can_be_stopped_and_killed_wherever_it_is(
    what: str, code: int, server: ForkServer, balanced: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    for at in (
        "training.epochs.reestimate_batchnorm",
        "training.epochs.fit_fc",
        "training.features.fit_linear_classifier",
        "training.epochs.save",
        "training.epochs._validate",
        "engine.step.train_step",
    ):
        server.run(folder, base=BALANCED, faults=[happens(at, what)], code=code)
    server.run(folder, base=BALANCED)
    assert_same_run(folder, balanced)


@pytest.mark.slow
def test_a_second_signal_while_the_last_checkpoint_is_written_changes_nothing(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder, happened = tmp_path / "run", tmp_path / "happened"
    signals = [
        happens("engine.step.train_step", "SIGTERM", call=2),
        happens(":files._make_durable", "SIGTERM"),
    ]
    rarely = ("--checkpoint_minutes", "10")
    server.run(folder, *rarely, faults=signals, HAPPENED=str(happened), code=75)
    assert saved(folder) == {"step-00000002"}
    server.run(folder)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_a_run_at_once_and_its_checkpoints_stay(
    server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    server.run(folder, faults=[happens("engine.step.train_step", "SIGINT twice", call=9)], code=1)
    assert "KeyboardInterrupt" in log_of(folder).read_text()
    server.run(folder)
    assert_same_run(folder, uninterrupted)


def listens(process: psutil.Popen, number: int) -> bool:
    """Whether the process handles a signal."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    caught = next((line for line in lines if line.startswith("SigCgt")), "SigCgt: 0").split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def maps(process: psutil.Popen, library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("moment", ["before anything is imported", "while torch is imported"])
def test_a_signal_in_start_up_ends_with_75_and_nothing_is_begun(moment: str, tmp_path: Path):
    folder = tmp_path / "run"
    process = psutil.Popen(
        finetune_command(*TINY, "--output_dir", folder), stderr=subprocess.PIPE, env=environment()
    )
    wait_until(lambda: listens(process, signal.SIGUSR1))
    if moment == "while torch is imported":
        wait_until(lambda: maps(process, "libtorch"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 75, errors
    assert b"the same command resumes" in errors
    assert not folder.exists()


@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_goes_away_stops_a_run_unless_it_is_under_nohup(nohup: bool):
    code = f"""
import os, signal
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
signal.signal(signal.SIGHUP, signal.{"SIG_IGN" if nohup else "SIG_DFL"})
with PreemptionWatch() as watch:
    os.kill(os.getpid(), signal.SIGHUP)
    assert watch.requested is {not nohup}
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def launch(launcher: str) -> list[str]:
    program = Path(sys.executable).parent / launcher.split(maxsplit=1)[0]
    return [str(program), *launcher.split()[1:], str(ROOT / "recipes/finetune.py")]


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    with log_of(folder).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment(ACCELERATE_USE_CPU="true"))


# Launcher: its code, which for none of these is that of the process that ended with 75.
LAUNCHERS = {
    "accelerate launch --quiet": -signal.SIGTERM,
    "torchrun --standalone --nproc_per_node 2": 1,
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda launcher: launcher.split()[0])
def test_a_signal_to_another_launcher_alone_saves_too(
    launcher: str, server: ForkServer, uninterrupted: Path, on_two: Path, tmp_path: Path
):
    folder, processes = tmp_path / "run", 2 if "torchrun" in launcher else 1
    command = [*launch(launcher), *SMALL, *(HALF if processes == 2 else ()), "--output_dir", str(folder)]
    launched = start(command, folder)
    wait_until(lambda: saved(folder))
    children = psutil.Process(launched.pid).children()
    sent = time.monotonic()
    os.kill(launched.pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    assert len(children) == processes
    assert time.monotonic() - sent < 10
    assert launched.wait(timeout=30) == LAUNCHERS[launcher], log_of(folder).read_text()
    assert "the same command resumes" in log_of(folder).read_text()
    if processes == 1:
        server.run(folder)
        assert_same_run(folder, uninterrupted)
    else:
        server.run_two(folder)
        assert_same_run(folder, on_two)
    assert (RunReport.load(folder / "report.json").resumed_from_step or 0) > 0


@pytest.mark.slow
def test_a_signal_in_start_up_of_two_processes_comes_back_as_75(tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "resnet_hub.cli.main", "finetune", "--num_processes", "2", *TINY]
    launcher = psutil.Popen(
        [*command, "--output_dir", str(folder)], stderr=subprocess.PIPE, env=environment()
    )
    wait_until(lambda: len(launcher.children()) == 2)
    launcher.send_signal(signal.SIGTERM)
    _, errors = launcher.communicate(timeout=30)
    assert launcher.returncode == 75, errors
    assert not folder.exists()


@pytest.mark.slow
def test_two_runs_do_not_share_a_folder(server: ForkServer, uninterrupted: Path, tmp_path: Path):
    folder = tmp_path / "run"
    first = server.start(folder, faults=[happens("engine.step.train_step", "stopped", call=4)])
    wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_STOPPED)
    before = saved(folder)
    server.run(folder, code=2)
    assert "is in use: another process is fine-tuning into it" in log_of(folder).read_text()
    assert saved(folder) == before
    os.kill(first, signal.SIGCONT)
    server.ended([first], folder)
    assert_same_run(folder, uninterrupted)
    assert RunReport.load(folder / "report.json").resumed_from_step is None


@pytest.mark.slow
@pytest.mark.parametrize("arrives", [False, True], ids=["the commit is lost", "the commit was made"])
def test_a_signal_while_a_run_is_published_ends_it_and_the_same_command_publishes(
    arrives: bool, hub: HubServer, tmp_path: Path
):
    folder = tmp_path / "run"
    push = ("--push_to_hub", "--hub_model_id", "alice/digits", "--hub_private_repo")
    command = finetune_command(*TINY, "--max_train_steps", "1", *push, "--output_dir", folder)
    variables = child_environment(hub.url, home=tmp_path / "home")

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_alive(process.pid), seconds=10)  # its code is for `communicate`, once

    hub.fail("POST .*/commit/", meanwhile=stop, drop=not arrives)
    process = psutil.Popen(command, stderr=subprocess.PIPE, env=variables)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert b"the same command resumes" in errors
    repository = hub.storage.repos["models", "alice/digits"]

    def is_there() -> bool:
        return "model.safetensors" in repository.commits[repository.branches["main"]].files

    if arrives:
        wait_until(is_there)  # the Hub works on, with nobody to tell
    assert is_there() is arrives
    report = (folder / "report.json").read_bytes()

    again = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert again.returncode == 0, again.stderr
    assert "published" in again.stderr
    assert (folder / "report.json").read_bytes() == report
    ours, theirs = load(folder), load("alice/digits")
    assert all(ours.state_dict()[name].equal(tensor) for name, tensor in theirs.state_dict().items())
