"""Several processes of one machine: started, told of signals, and their exit codes brought back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_hub.cli.finetune import run_finetune, without_option
from resnet_hub.finetuning.machine.launcher import run_processes
from resnet_hub.results import RunReport

from ..conftest import TINY, environment

# Says that it is there, and saves as a run does when it is told to stop.
PROGRAM = """
import os, pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path(f"saved-{os.environ['RANK']}-{number}").touch()
    time.sleep(0.2)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
pathlib.Path(f"there-{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}").touch()
time.sleep(float(sys.argv[1]))
"""
LAUNCH = """
import sys
from resnet_hub.finetuning.machine.launcher import run_processes
sys.exit(run_processes(sys.argv[1:], 2, environment={}))
"""


def run_python(code: str, processes: int = 2, patience: float = 60) -> int:
    return run_processes([sys.executable, "-c", code], processes, environment={}, patience=patience)


def test_each_process_knows_its_number_and_all_meet_at_one_port(tmp_path: Path):
    code = (
        "import os, pathlib; e = os.environ; pathlib.Path(e['PLACE'], e['RANK']).write_text("
        "' '.join(e[name] for name in ('LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_PORT')))"
    )
    assert run_processes([sys.executable, "-c", code], 3, environment={"PLACE": str(tmp_path)}) == 0
    found = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [words[:3] for words in found] == [[str(rank), "3", "3"] for rank in range(3)]
    assert len({words[3] for words in found}) == 1


@pytest.mark.parametrize(
    ("codes", "expected"), [((0, 0), 0), ((2, 2), 2), ((75, 75), 75), ((0, 3), 3), ((75, 1), 1)], ids=str
)
def test_the_exit_code_is_that_of_the_first_error(codes: tuple[int, int], expected: int):
    assert run_python(f"import os, sys; sys.exit({codes}[int(os.environ['RANK'])])") == expected


def test_who_waits_in_vain_for_a_killed_process_is_ended():
    code = "import os, signal, time; os.environ['RANK'] == '0' or os.kill(os.getpid(), 9); time.sleep(60)"
    started = time.monotonic()
    assert run_python(code, patience=0.5) == 1
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_once_and_75_comes_back(number: int, tmp_path: Path):
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, sys.executable, "-c", PROGRAM, "60"],
        cwd=tmp_path,
        start_new_session=True,
    )
    while launcher.poll() is None and len(list(tmp_path.glob("there-*-of-2"))) < 2:
        time.sleep(0.02)
    os.killpg(launcher.pid, number)  # as a terminal does for Ctrl-C: the whole group in front
    assert launcher.wait(timeout=30) == 75
    assert {path.name for path in tmp_path.glob("saved-*")} == {f"saved-{rank}-{number}" for rank in range(2)}


@pytest.mark.parametrize(
    "words",
    [["--num_processes", "2"], ["--num-processes=2"], ["--num-processes", "2"], ["--num_processes=2"]],
)
def test_the_number_of_processes_is_for_the_launcher_alone(words: list[str]):
    assert without_option(["--seed", "1", *words, "--dry_run"], "num_processes") == [
        "--seed",
        "1",
        "--dry_run",
    ]


def test_a_request_that_cannot_be_carried_out_starts_nothing(monkeypatch: pytest.MonkeyPatch):
    from resnet_hub.errors import ConfigError

    with pytest.raises(ConfigError, match="1 or more"):
        run_finetune(["--dataset_name", "digits", "--num_processes", "0"])
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match="torchrun or accelerate launch already"):
        run_finetune(["--dataset_name", "digits"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("processes", [1, 2])
def test_finetune_is_preempted_with_75_and_goes_on(processes: int, tmp_path: Path):
    run = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "resnet_hub.cli.main", "finetune", *TINY, "--num_processes", str(processes)),
        *("--max_train_steps", "30", "--output_dir", str(run)),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    while first.poll() is None and "train" not in _text(run / "metrics.jsonl"):
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 75, errors
    second = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert second.returncode == 0, second.stderr
    report = RunReport.load(run / "report.json")
    assert (report.resumed_from_step or 0) >= 10
    assert report.environment["machine"]["processes"] == processes
    third = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert third.returncode == 2
    assert "holds a finished run" in third.stderr


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
