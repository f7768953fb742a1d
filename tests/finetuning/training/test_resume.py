"""A signal to the command that a user typed: it saves, ends with 75, and the same command resumes."""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from resnet_hub.results import RunReport

from ..conftest import TINY, environment, finetune_command, run_command
from ..runs import assert_same_run, wait_until

# Everything random is on: order, crops, mixing, and a time-free schedule.
RUN = (*TINY, "--num_train_epochs", "3", "--mixup", "0.2", "--random_erasing", "0.3")


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The run, done in one go by the command itself."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = run_command(finetune_command(*RUN, "--output_dir", folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_ends_with_75_and_the_same_command_goes_on(
    number: int, tmp_path: Path, straight: Path
):
    folder = tmp_path / "run"
    command = finetune_command(*RUN, "--output_dir", folder)
    process = subprocess.Popen(
        command, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log = folder / "metrics.jsonl"
    wait_until(lambda: process.poll() is not None or (log.exists() and '"train"' in log.read_text()))
    sent = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert time.monotonic() - sent < 10
    assert "same command resumes" in said
    assert not (folder / "report.json").exists()

    config = (folder / "config.yaml").read_bytes()
    refused = run_command([*command, "--resume", "never"])
    assert refused.returncode == 2, refused.stderr
    assert (folder / "config.yaml").read_bytes() == config

    done = run_command(command)
    assert done.returncode == 0, done.stderr
    assert (RunReport.load(folder / "report.json").resumed_from_step or 0) >= 10
    assert_same_run(folder, straight)
