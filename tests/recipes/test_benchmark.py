"""The benchmark runs for real: each contender is a process that trains, and a part goes on with another."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "recipes/benchmark.py"
FEW = ("--model", "my_resnet20", "--image_size", "32", "--classes", "2", "--train_images", "64",
       "--validation_images", "8", "--epochs", "2")  # fmt: skip


def run(*arguments: str | Path) -> str:
    command = [sys.executable, str(BENCHMARK), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_speed_is_measured_in_parts_and_its_ratios_are_of_the_same_round(tmp_path: Path):
    shared = ("speed", *FEW, "--rounds", 1, "--data", tmp_path / "signs", "--json", tmp_path / "speed.json")
    run(*shared, "--contenders", "timm")
    printed = run(*shared, "--contenders", "transformers_best")
    first, second = json.loads((tmp_path / "speed.json").read_text())["rounds"]
    assert (set(first), set(second)) == ({"resnet_hub", "timm"}, {"resnet_hub", "transformers_best"})
    for found in (*first.values(), *second.values()):
        assert len(found["epochs"]) == 2
        assert 0 < found["epoch_seconds"] < found["process_seconds"]
        assert 0 < 2 * found["train_seconds"] < found["process_seconds"]
        # An epoch of training and validation, and training alone, in images per second.
        assert found["epoch_images_per_second"] == pytest.approx(72 / found["epoch_seconds"])
        assert found["train_images_per_second"] == pytest.approx(64 / found["train_seconds"])
    ratio = first["timm"]["process_seconds"] / first["resnet_hub"]["process_seconds"]
    (line,) = [line for line in printed.splitlines() if line.startswith("timm ")]
    assert f"{ratio:.2f} [{ratio:.2f}, {ratio:.2f}]" in line


@pytest.mark.slow
def test_time_to_accuracy_ends_with_the_first_epoch_that_is_as_accurate(tmp_path: Path):
    run(
        "accuracy", *FEW, "--seeds", 3, "--presets", "quick", "--learning_rates", 1e-3,
        "--json", tmp_path / "accuracy.json",
    )  # fmt: skip
    record = json.loads((tmp_path / "accuracy.json").read_text())
    assert set(record["results"]) == {"quick", "timm_best 0.001", "transformers_best 0.001"}
    for library in ("timm", "transformers"):
        (peer,) = record["results"][f"{library}_best 0.001"]
        target = max(epoch["accuracy"] for epoch in peer["epochs"])
        (share,) = record["shares_of_time"][f"{library}_best 0.001"][library]
        first = next(epoch for epoch in peer["epochs"] if epoch["accuracy"] >= target)
        assert share == pytest.approx((first["time"] - peer["started"]) / peer["process_seconds"])
        assert 0 < share < 1


@pytest.mark.slow
def test_steps_are_measured_in_the_same_rounds_as_those_of_timm():
    command = [sys.executable, str(BENCHMARK.with_name("benchmark_steps.py")), "--model", "my_resnet20",
               "--image_size", "32", "--batch_size", "16", "--steps", "3", "--rounds", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    rows = [line.split("  ", 1) for line in done.stdout.splitlines() if line.endswith("]")]
    rates = {name: [name, *numbers.split()] for name, numbers in rows}
    assert set(rates) == {"timm", "timm, fused AdamW", "resnet_hub"}
    assert rates["timm"][-3] == "1.000"
    lowest, highest = (float(rates["resnet_hub"][place].strip("[],")) for place in (2, 3))
    assert 0 < lowest <= float(rates["resnet_hub"][1]) <= highest


@pytest.mark.slow
def test_every_part_of_the_gpu_check_can_be_tried_out_on_a_cpu(tmp_path: Path):
    command = [sys.executable, str(BENCHMARK.with_name("gpu_check.py")), str(tmp_path), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("-- ") == done.stdout.count(": 0 after") == 8
    assert "waits in 5 steps" in done.stdout
    assert "images_per_second" in done.stdout
