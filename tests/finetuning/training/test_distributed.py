"""Several processes compute what one computes: same images, same steps, and to rounding the same weights."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from resnet_hub.finetuning.training.evaluation import reestimate_batchnorm
from resnet_hub.results import RunReport

from ..conftest import ROOT, TINY, events_without_time, finetune_command, run_command
from ..runs import on_two_processes
from .test_best import prepared

STEPS = ("--max_train_steps", "12", "--learning_rate", "1e-3", "--mixed_precision", "no")


def torchrun(processes: int, *arguments: str | Path) -> list[str]:
    program = Path(sys.executable).parent / "torchrun"
    options = ["--standalone", "--nproc_per_node", str(processes)]
    return [str(program), *options, str(ROOT / "recipes/finetune.py"), *map(str, arguments)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, Path]:
    """The same run on one process and on two, with the same images in every step."""
    root = tmp_path_factory.mktemp("runs")
    data = [argument for argument in TINY if argument != "128"]
    place = data.index("--per_device_train_batch_size") + 1
    found = {}
    for processes in (1, 2):
        arguments = [
            *data[:place],
            str(128 // processes),
            *data[place:],
            *STEPS,
            "--output_dir",
            root / str(processes),
        ]
        command = finetune_command(*arguments) if processes == 1 else torchrun(2, *arguments)
        done = run_command(command, ACCELERATE_USE_CPU="true")
        assert done.returncode == 0, done.stderr
        found[processes] = root / str(processes)
    return found


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(runs):
    one, two = (load_file(runs[count] / "export/model.safetensors") for count in (1, 2))
    assert one.keys() == two.keys()
    # Sums in another order: float32 rounding, grown by twelve steps of Adam at a rate of 1e-3.
    worst = max(float((one[name].float() - two[name].float()).abs().max()) for name in one)
    assert worst < 2e-3
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=2e-3, rtol=1e-2) for name in one)


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(runs):
    one, two = ([e["loss"] for e in events_without_time(runs[count])] for count in (1, 2))
    assert len(one) == len(two) > 0
    assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.slow
def test_two_processes_evaluate_every_image_once(runs):
    one, two = (RunReport.load(runs[count] / "report.json") for count in (1, 2))
    assert one.test is not None
    assert two.test is not None
    assert one.test.num_images == two.test.num_images == 270
    assert one.test.accuracy == pytest.approx(two.test.accuracy, abs=2 / 270)
    assert one.train.steps == two.train.steps == 12


@pytest.mark.slow
def test_scores_of_any_size_on_one_two_and_three_processes_are_the_same(tmp_path: Path):
    script = Path(__file__).with_name("distributed_scores.py")
    done = run_command([sys.executable, script, tmp_path])
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert sorted(found) == ["1-0", "2-0", "2-1", "3-0", "3-1", "3-2"]
    for size, one in found["1-0"].items():
        assert one["num_images"] == int(size)
        for process in found.values():
            assert process[size] == pytest.approx(one, abs=1e-12, rel=0)
    assert 0 < found["1-0"]["97"]["accuracy"] < 1


@pytest.mark.slow
def test_bad_input_on_two_processes_is_said_once_and_writes_nothing(tmp_path: Path):
    done = run_command(torchrun(2, *TINY, "--nmu_train_epochs", "1", "--output_dir", tmp_path / "x"))
    assert done.returncode != 0
    assert done.stderr.count("did you mean 'num_train_epochs'") == 1
    assert not (tmp_path / "x").exists()


def statistics(folder: Path, **options: Any) -> torch.Tensor:
    """Mean and variance of the first BatchNorm, (2, channels), estimated from 512 images."""
    run, training = prepared(folder, images_per_step=128, **options)
    reestimate_batchnorm(run, training.network, epoch=0, schedule_epoch=0, num_images=512)
    norm = training.network.bn1
    return torch.stack([norm.running_mean, norm.running_var])


def statistics_of_half(folder: Path) -> torch.Tensor:
    return statistics(folder, sync_batchnorm="no", per_device_train_batch_size=64)


@pytest.mark.slow
def test_estimated_statistics_are_those_of_the_images_of_all_processes(tmp_path: Path):
    """Without SyncBatchNorm too, where each process sees its own share only."""
    first, second = on_two_processes(statistics_of_half, tmp_path / "two")
    assert torch.equal(first, second)
    mean, variance = statistics(tmp_path / "one", per_device_train_batch_size=128)
    torch.testing.assert_close(first[0], mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first[1], variance, atol=1e-4, rtol=0.02)  # means of other batches
