"""Runs over a stream: killed anywhere they end with the same weights, and several processes are as one."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
from safetensors.torch import load_file

from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.data.sources import make_digits
from resnet_hub.results import RunReport

from ..conftest import environment, events_without_time, finetune_command, run_command
from ..data.test_streaming import parquet_folder
from .test_distributed import torchrun
from .test_resume import assert_same_run

OPTIONS = ("--streaming", "--test_fraction", "0", "--model", "my_resnet20", "--image_size", "8",
           "--shuffle_buffer", "256", "--horizontal_flip", "0", "--max_bad_images", "0.003")  # fmt: skip
TRAIN = ("--no-pretrained", "--num_train_epochs", "2", "--per_device_train_batch_size", "64",
         "--mixup", "0.2", "--random_erasing", "0.3", "--checkpoint_minutes", "0.002")  # fmt: skip
BAD = (70, 501)


def digits_folder(folder: Path, bad: tuple[int, ...]) -> Path:
    """1,200 digits to train on, of which some files are cut off, and 150 to validate on."""
    rows = make_digits().shuffle(seed=0)
    stored = rows.cast_column("image", datasets.Image(decode=False))[:1200]
    for row in bad:
        stored["image"][row] = {"bytes": stored["image"][row]["bytes"][:60], "path": None}
    train = datasets.Dataset.from_dict(dict(stored), features=rows.features)
    parquet_folder(folder, train, [200] * 6)
    return parquet_folder(folder, rows.select(range(1200, 1350)), [150], "validation")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("digits"), BAD)


@pytest.fixture(scope="module")
def uninterrupted(digits: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert main(arguments(digits, folder)) == 0
    return folder


def arguments(data: Path, folder: Path, *more: str) -> list[str]:
    return ["--dataset_name", str(data), *OPTIONS, *TRAIN, "--output_dir", str(folder), *more]


def bad_images(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "bad_images.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [(signal.SIGTERM, "0"), (signal.SIGKILL, "2")],
    ids=["SIGTERM", "kill -9, loader processes"],
)
def test_a_stream_that_is_stopped_in_an_epoch_goes_on_bit_for_bit(
    digits: Path, uninterrupted: Path, tmp_path: Path, capsys, how: tuple[signal.Signals, str]
):
    number, workers = how
    folder = tmp_path / "run"
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            finetune_command(*arguments(digits, folder, "--dataloader_num_workers", workers)),
            env=environment(),
            stderr=output,
            stdout=output,
            start_new_session=True,
        )
        while process.poll() is None and not list((folder / "checkpoints").glob("step-*")):
            time.sleep(0.002)
        os.killpg(process.pid, number)
        assert process.wait(timeout=60) == (75 if number == signal.SIGTERM else -number), log.read_text()
    assert main(arguments(digits, folder, "--stream_parts", "4")) == 2
    assert "stream_parts was 8, is 4" in capsys.readouterr().err
    assert main(arguments(digits, folder)) == 0
    resumed_from = RunReport.load(folder / "report.json").resumed_from_step or 0
    assert resumed_from % 19, "it was stopped between two epochs, so that the test did not test it"
    assert_same_run(folder, uninterrupted)
    assert bad_images(folder) == bad_images(uninterrupted)


@pytest.mark.slow
def test_bad_images_of_a_stream_are_left_out_listed_once_and_not_counted(uninterrupted: Path):
    assert sorted((image["split"], image["row"]) for image in bad_images(uninterrupted)) == [
        ("train", row) for row in BAD
    ]
    report = RunReport.load(uninterrupted / "report.json")
    assert report.splits["train"].num_images == 1200
    assert "streamed" in report.splits["train"].how
    assert report.train.steps == 38


def test_bad_images_are_listed_where_steps_are_read_late_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, where what a step measured is known one step later."""
    monkeypatch.setattr("resnet_hub.finetuning.data.load_streamed.SAMPLE_IMAGES", 8)
    monkeypatch.setattr("resnet_hub.finetuning.training.state.can_be_read_late", lambda *_: True)
    data, folder = digits_folder(tmp_path / "data", (70, 501, 900)), tmp_path / "run"
    assert main(arguments(data, folder, "--num_train_epochs", "1")) == 0
    assert {image["row"] for image in bad_images(folder)} == {70, 501, 900}


def test_more_bad_images_than_allowed_stop_the_run_with_their_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("resnet_hub.finetuning.data.load_streamed.SAMPLE_IMAGES", 8)
    bad = tuple(np.random.default_rng(0).permutation(1200)[:100].tolist())
    data = digits_folder(tmp_path / "data", bad)
    assert main(arguments(data, tmp_path / "run")) == 1
    said = capsys.readouterr().err
    assert "of 1,200 training images cannot be used so far; --max_bad_images allows 0.3%" in said
    listed = bad_images(tmp_path / "run")
    assert 4 <= len(listed) < 30
    assert {image["row"] for image in listed} <= set(bad)
    assert f"train row {listed[-1]['row']}: is damaged" in said


@pytest.mark.slow
def test_fc_is_fitted_on_the_sample_and_averages_work(digits: Path, tmp_path: Path):
    asked = ["--dataset_name", str(digits), *OPTIONS, "--num_train_epochs", "1", "--ema"]
    assert main([*asked, "--output_dir", str(tmp_path / "run")]) == 0
    events = events_without_time(tmp_path / "run")
    assert "fit_fc" in {event["event"] for event in events}
    assert events[0]["accuracy"] > 0.6


@pytest.mark.slow
def test_two_processes_train_on_the_stream_of_one(digits: Path, uninterrupted: Path, tmp_path: Path):
    runs = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        size = ("--per_device_train_batch_size", str(64 // processes))
        options = ("--no-pretrained", "--max_train_steps", "24", "--mixed_precision", "no", *size)
        asked = ("--dataset_name", digits, *OPTIONS, *options, "--output_dir", folder)
        started = finetune_command(*asked) if processes == 1 else torchrun(2, *asked)
        done = run_command(started, ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr
        runs[processes] = folder
    one, two = ([event["loss"] for event in events_without_time(runs[count])] for count in (1, 2))
    assert one == pytest.approx(two, rel=2e-3)
    first, second = (load_file(runs[count] / "export/model.safetensors") for count in (1, 2))
    assert max(float((first[name].float() - second[name].float()).abs().max()) for name in first) < 5e-3
    assert bad_images(runs[1]) == bad_images(runs[2])
