"""The plan of an epoch: every image once, the same for any number of processes, from any step on."""

from pathlib import Path

import numpy as np
import pytest

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.batches.sampler import EpochPlan, part

from ..image_files import class_folders


def step_images(plan: EpochPlan, epoch: int, step: int, world_size: int, num_micro: int) -> np.ndarray:
    """What all processes together see in one step."""
    return np.concatenate(
        [
            plan.batch(epoch, step, rank=rank, world_size=world_size, micro=micro, num_micro=num_micro)
            for micro in range(num_micro)
            for rank in range(world_size)
        ]
    )


@pytest.mark.parametrize("num_images", [1, 2, 31, 32, 33, 97, 1000])
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_every_image_is_seen_exactly_once_in_an_epoch(num_images: int, batch: int):
    plan = EpochPlan(num_images=num_images, global_batch_size=batch, seed=0)
    seen = np.concatenate([plan.global_batch(3, step) for step in range(plan.steps_per_epoch)])
    assert sorted(seen) == list(range(num_images))


@pytest.mark.parametrize("num_images", [65, 97, 129])
def test_no_step_is_a_small_remainder(num_images: int):
    plan = EpochPlan(num_images=num_images, global_batch_size=64, seed=0)
    sizes = [len(plan.global_batch(0, step)) for step in range(plan.steps_per_epoch)]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 64


@pytest.mark.parametrize(("world_size", "num_micro"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3), (3, 2)])
def test_a_step_has_the_same_images_on_any_number_of_processes(world_size: int, num_micro: int):
    plan = EpochPlan(num_images=97, global_batch_size=24, seed=5)
    for step in range(plan.steps_per_epoch):
        seen = step_images(plan, 1, step, world_size, num_micro)
        assert np.array_equal(seen, plan.global_batch(1, step))


def test_micro_batches_of_all_processes_differ_by_at_most_one_image():
    plan = EpochPlan(num_images=97, global_batch_size=24, seed=5)
    sizes = [
        len(plan.batch(0, step, rank=rank, world_size=3, micro=micro, num_micro=2))
        for step in range(plan.steps_per_epoch)
        for rank in range(3)
        for micro in range(2)
    ]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_is_a_function_of_seed_and_epoch():
    plan = EpochPlan(num_images=50, global_batch_size=10, seed=1)
    again = EpochPlan(num_images=50, global_batch_size=5, seed=1)
    assert np.array_equal(plan.order(2), again.order(2))
    assert not np.array_equal(plan.order(2), plan.order(3))
    other = EpochPlan(num_images=50, global_batch_size=10, seed=2)
    assert not np.array_equal(plan.order(2), other.order(2))


def test_without_shuffling_the_order_is_that_of_the_split():
    plan = EpochPlan(num_images=7, global_batch_size=3, seed=1, shuffle=False)
    assert plan.order(4).tolist() == list(range(7))


def test_too_few_images_for_the_processes_are_refused_with_advice():
    plan = EpochPlan(num_images=5, global_batch_size=4, seed=0)
    plan.check_parts(world_size=2, num_micro=1)
    with pytest.raises(ConfigError, match="per_device_train_batch_size"):
        plan.check_parts(world_size=3, num_micro=1)


def test_an_epoch_without_images_is_refused():
    with pytest.raises(ConfigError, match="no step"):
        EpochPlan(num_images=0, global_batch_size=4, seed=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 4, 7])
def test_parts_are_those_of_numpy(length: int, count: int):
    indices = np.arange(length)
    expected = np.array_split(indices, count)
    assert all(np.array_equal(part(indices, number, count), expected[number]) for number in range(count))


def test_a_batch_of_one_image_with_a_single_value_a_channel_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    """BatchNorm has no variance of it; seven images in steps of two leave one alone."""
    data = class_folders(tmp_path / "data", {"cat": 3, "dog": 4})
    flags = ["--train_dir", str(data), "--model", "my_resnet18", "--no-pretrained", "--image_size", "32"]
    flags += ["--validation_fraction", "0", "--test_fraction", "0", "--output_dir", str(tmp_path / "run")]
    assert main([*flags, "--per_device_train_batch_size", "2", "--num_train_epochs", "1"]) == 2
    assert "BatchNorm has no variance" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*flags, "--per_device_train_batch_size", "4", "--max_train_steps", "1"]) == 0
