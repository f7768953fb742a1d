"""No run is lost: stopped at any moment, the same command ends with the same weights, bit for bit."""

import hashlib
import signal
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from resnet_hub.finetuning.__main__ import main
from resnet_hub.results import RunReport

from ..conftest import TINY, environment, events_without_time, finetune_command, run_command

# Everything random is on: order, crops, mixing, and a time-free schedule.
RUN = (
    *TINY,
    "--num_train_epochs",
    "3",
    "--mixup",
    "0.2",
    "--random_erasing",
    "0.3",
    "--checkpoint_minutes",
    "0.03",
)


def weights_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "export/model.safetensors").read_bytes()).hexdigest()


def steps_logged(folder: Path) -> int:
    log = folder / "metrics.jsonl"
    return log.read_text().count('"event": "train"') if log.exists() else 0


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = finetune_command(*RUN, *arguments, "--output_dir", folder)
    return subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    done = run_command(finetune_command(*RUN, "--output_dir", folder))
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(folder: Path, uninterrupted: Path) -> None:
    assert weights_hash(folder) == weights_hash(uninterrupted)
    assert events_without_time(folder) == events_without_time(uninterrupted)
    assert RunReport.load(folder / "report.json").test == RunReport.load(uninterrupted / "report.json").test


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_ends_with_75_and_the_same_command_goes_on(
    number, tmp_path: Path, uninterrupted: Path
):
    folder = tmp_path / "run"
    process = start(folder)
    while process.poll() is None and steps_logged(folder) < 1:
        time.sleep(0.02)
    sent = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert time.monotonic() - sent < 10
    assert "same command goes on" in output
    assert not (folder / "report.json").exists()

    done = run_command(finetune_command(*RUN, "--output_dir", folder))
    assert done.returncode == 0, done.stderr
    assert (RunReport.load(folder / "report.json").resumed_from_step or 0) >= 10
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_changed_configuration_does_not_go_on_with_a_run(tmp_path: Path, capsys):
    folder = tmp_path / "run"
    process = start(folder)
    while process.poll() is None and steps_logged(folder) < 1:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    config = (folder / "config.yaml").read_bytes()
    assert main([*RUN, "--output_dir", str(folder), "--seed", "1"]) == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
    assert main([*RUN, "--output_dir", str(folder), "--resume", "never"]) == 2
    assert (folder / "config.yaml").read_bytes() == config


@pytest.mark.slow
def test_the_order_of_images_matters_so_a_wrong_order_would_be_noticed(tmp_path: Path, uninterrupted: Path):
    """The negative control of the tests above: other draws give other weights."""
    folder = tmp_path / "run"
    assert main([*RUN, "--seed", "1", "--output_dir", str(folder)]) == 0
    ours, theirs = (load_file(run / "export/model.safetensors") for run in (folder, uninterrupted))
    assert any(not ours[name].equal(theirs[name]) for name in ours)
