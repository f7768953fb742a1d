"""What only a GPU shows; `make test-gpu` runs these on a machine that has one."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from resnet_hub.finetuning.engine.step import settle, train_steps
from resnet_hub.finetuning.engine.stopwatch import FORWARD, Stopwatch
from resnet_hub.finetuning.machine.machine import start_machine
from resnet_hub.finetuning.network.freezing import train_all_but

from ..conftest import ROOT, environment, finetune_command, run_command
from ..training.test_best import TINY_CONFIG, prepared

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here, or none asked for"),
]
DIGITS = ("--config", str(ROOT / "recipes/configs/digits.yaml"))
LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no", str(ROOT / "recipes/finetune.py"))  # fmt: skip


def losses(folder: Path) -> list[float]:
    events = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [event["loss"] for event in events if event["event"] == "train"]


def test_the_recipe_of_digits_ends_as_it_does_on_a_cpu(tmp_path: Path):
    done = run_command([*LAUNCH, *DIGITS, "--output_dir", tmp_path / "run"])
    assert done.returncode == 0, done.stderr
    assert "bf16 mixed with float32" in done.stderr
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["test"]["accuracy"] > 0.985


def test_a_run_whose_launcher_is_asked_to_stop_goes_on(tmp_path: Path):
    command = [*LAUNCH, *DIGITS, "--num_train_epochs", "3000", "--output_dir", str(tmp_path / "run")]
    metrics = tmp_path / "run/metrics.jsonl"
    for start in (1, 2):
        with (tmp_path / "said").open("w") as said:
            launcher = subprocess.Popen(command, stderr=said, env=environment())
        until = time.monotonic() + 120
        while not metrics.exists() or metrics.read_text().count('"train"') < 20 * start:
            assert time.monotonic() < until, (tmp_path / "said").read_text()
            time.sleep(0.1)
        launcher.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        # The launcher of one process leaves at once; the run itself ends with a checkpoint.
        while "stopped by a signal" not in (tmp_path / "said").read_text():
            assert time.monotonic() < asked + 10
            time.sleep(0.05)
        launcher.wait()
    assert "resuming from step" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_has_the_losses_of_float32(precision: str, tmp_path: Path):
    options = ("--dataset_name", "digits", "--model", "my_resnet18", "--no_pretrained", "--image_size", "96",
               "--images_per_step", "128", "--num_train_epochs", "4", "--learning_rate", "1e-3")  # fmt: skip
    for name in ("no", precision):
        command = finetune_command(*options, "--mixed_precision", name, "--output_dir", tmp_path / name)
        done = run_command(command)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "no"), rel=1e-2)


def test_a_step_that_does_not_fit_is_done_in_parts(tmp_path: Path):
    options = ("--dataset_name", "digits", "--model", "my_resnet50", "--no_pretrained", "--image_size", "640",
               "--images_per_step", "1257", "--max_train_steps", "2")  # fmt: skip
    done = run_command(finetune_command(*options, "--output_dir", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "a micro-batch is now done in" in done.stderr


@pytest.mark.parametrize("how", ["read at once", "compiled"])
def test_steps_that_are_read_late_and_compiled_ones_are_the_same_steps(how: str, tmp_path: Path):
    found = []
    for name in ("as they are", how):
        _, training = prepared(tmp_path / name, max_train_steps=8, torch_compile=name == "compiled")
        train_all_but(training.network, 0)
        assert training.trainer.reads_late
        trainer = replace(training.trainer, reads_late=name != "read at once")
        list(islice(train_steps(trainer, training.progress, training.batches.epoch(0), epoch=0), 8))
        settle(trainer, training.progress)
        found.append(training.progress.recent_losses)
    assert len(found[0]) == 8
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_what_is_sent_beside_the_computation_arrives_whole():
    machine = start_machine(TINY_CONFIG)
    busy = torch.randn(8192, 8192, device=machine.accelerator.device)
    for number in range(20):
        busy = torch.nn.functional.normalize(busy @ busy)
        there = machine.send(torch.full((64, 3, 224, 224), number, dtype=torch.uint8).pin_memory())
        assert int(there.float().mean()) == number


def test_the_device_is_timed_and_not_the_launch():
    seconds: dict[str, float] = {}
    stopwatch = Stopwatch(seconds, torch.device("cuda"))
    matrix = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    stopwatch.start()
    started = time.perf_counter()
    for _ in range(20):
        matrix = torch.nn.functional.normalize(matrix @ matrix)
    stopwatch.lap(FORWARD)
    launched = time.perf_counter() - started
    stopwatch.settle()
    torch.cuda.synchronize()
    took = time.perf_counter() - started
    assert launched < seconds[FORWARD] <= took
