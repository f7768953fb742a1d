"""The published recipes from random weights, and the options that they need."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data.auto_augment import rand_augment_transform
from timm.layers import DropPath
from torch import nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.batches.augment import AutoAugment
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.engine.optimizer import make_optimizer, set_rate
from resnet_hub.finetuning.machine.seeds import keyed_randomness
from resnet_hub.finetuning.run_folder.checkpoint import load_optimizer_tensors, optimizer_tensors
from resnet_hub.hub import save_folder
from resnet_hub.hub.loading import load_with_config
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.results import RunReport

from ..settings import settings_of
from .test_best import prepared

CONFIGS = ("rsb_a1", "rsb_a2", "rsb_a3", "torchvision_v2")
PREPROCESSING = Preprocessing(
    image_size=(40, 40),
    crop_fraction=0.875,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_recipe_runs_on_other_data_in_small(name: str, tmp_path: Path):
    folder = tmp_path / "run"
    smaller = {
        "dataset_name": "digits",
        "model": "my_resnet20",
        "image_size": 16,
        "train_image_size": 12,
        "images_per_step": 100,
        "per_device_train_batch_size": 50,
        "max_train_steps": 3,
        "warmup_steps": 1,
    }
    flags = [part for key, value in smaller.items() for part in (f"--{key}", str(value))]
    assert main(["--recipe", name, *flags, "--output_dir", str(folder)]) == 0
    report = RunReport.load(folder / "report.json")
    assert report.recipe["gradient_accumulation_steps"] == 2
    assert report.train.steps == 3
    assert load_file(folder / "export/model.safetensors")["fc.weight"].shape == (10, 64)


@pytest.mark.parametrize("name", ["adamw", "sgd", "momentum", "lamb"])
def test_a_restored_optimizer_goes_on_bit_for_bit_whichever_it_is(name):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def trained(steps: int, weights=None, state=None) -> tuple[dict, dict]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
        if weights is not None:
            network.load_state_dict(weights)
        optimizer = make_optimizer(network, name, weight_decay=0.02)
        if state is not None:
            load_optimizer_tensors(optimizer, state)
        set_rate(optimizer, 0.1)
        for _ in range(steps):
            network(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        saved = {key: value.detach().clone() for key, value in network.state_dict().items()}
        return saved, {key: value.clone().contiguous() for key, value in optimizer_tensors(optimizer).items()}

    straight, _ = trained(6)
    half, state = trained(3)
    resumed, _ = trained(3, half, state)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    forgetful, _ = trained(3, half)
    assert not torch.equal(straight["0.weight"], forgetful["0.weight"])


def test_only_adamw_has_a_rule_for_its_rate():
    with pytest.raises(ConfigError, match="--optimizer sgd needs --learning_rate and --weight_decay"):
        FinetuneConfig(optimizer="sgd", learning_rate=0.1)


@pytest.mark.parametrize(("batch_size", "world_size", "micro"), [(None, 2, 1), (16, 2, 4), (50, 1, 3)])
def test_the_images_of_a_step_are_shared_out_to_processes_and_micro_batches(batch_size, world_size, micro):
    config = settings_of(
        situation={"num_train": 1000, "world_size": world_size},
        images_per_step=128,
        per_device_train_batch_size=batch_size,
    ).schedule
    assert config.images_per_step == 128
    assert config.gradient_accumulation_steps == micro
    assert config.per_device_train_batch_size == (batch_size or 64)


@pytest.mark.parametrize(("num_images", "copies", "batch"), [(100, 3, 32), (97, 4, 16), (12, 2, 5)])
def test_copies_of_an_image_come_in_one_step_and_never_beside_each_other(
    num_images: int, copies: int, batch: int
):
    plan = EpochPlan(num_images=num_images, global_batch_size=batch, seed=0, copies=copies)
    steps = [plan.global_batch(1, step) for step in range(plan.steps_per_epoch)]
    everything = np.concatenate(steps)
    assert len(everything) == num_images == len(np.unique(everything))
    assert len(np.unique(everything % num_images)) == -(-num_images // copies)
    torn = 0
    for indices in steps:
        images = indices % num_images
        # A step that holds more than one image never has two copies of one side by side.
        beside = sum(first == second for first, second in pairwise(images))
        assert beside == 0 or len(np.unique(images)) == 1
        torn += sum(np.bincount(images, minlength=num_images)[np.unique(images)] < copies)
    assert torn <= 2 * len(steps)  # an image may be cut by the border between two steps


@pytest.mark.parametrize("start", [("--ema", "--no_pretrained"), ("--learning_rate", "3e-3")])
def test_statistics_are_taken_from_images_and_not_from_their_copies(start: tuple[str, str], tmp_path: Path):
    flags = ("--dataset_name", "digits", "--model", "my_resnet20", "--image_size", "8", *start)
    flags = (*flags, "--repeated_augmentation", "3", "--num_train_epochs", "1", "--test_fraction", "0")
    assert main([*flags, "--images_per_step", "256", "--output_dir", str(tmp_path / "run")]) == 0


def test_copies_of_an_image_are_augmented_each_in_its_own_way(tmp_path: Path):
    _, training = prepared(tmp_path / "run", repeated_augmentation=3, images_per_step=90, random_erasing=0.9)
    (batch,) = next(training.batches.epoch(0))
    of_first = batch.images[batch.indices % 1257 == batch.indices[0] % 1257]
    assert len(of_first) == 3
    assert len(torch.unique(of_first.flatten(1), dim=0)) == 3


def test_training_images_may_be_smaller_than_those_of_evaluation(tmp_path: Path):
    run, training = prepared(tmp_path / "run", image_size=16, train_image_size=12, crop_pct=0.9)
    folder = save_folder(
        run.model,
        tmp_path / "export",
        class_names=[str(digit) for digit in range(10)],
        preprocessing=run.preprocessing,
        train_image_size=run.settings.images.train_image_size,
    )
    again = load_with_config(folder)
    assert again.config.train_input_size == (3, 12, 12)
    assert Preprocessing.of_model(again.model) == run.preprocessing
    (batch,) = next(training.batches.epoch(0))
    assert batch.images.shape[2:] == (12, 12)
    assert run.preprocessing.image_size == (16, 16)
    assert run.preprocessing.crop_fraction == 0.9


def test_drop_path_is_in_the_network(tmp_path: Path):
    run, _ = prepared(tmp_path / "run", drop_path_rate=0.2)
    rates = [module.drop_prob for module in run.model.modules() if isinstance(module, DropPath)]
    assert max(rates) == 0.2


def photo() -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return pil_to_tensor(Image.fromarray(values).resize((40, 40), Image.Resampling.BICUBIC))


def test_automatic_augmentation_is_timms_and_depends_on_the_key_alone():
    change = AutoAugment("rand-m7-mstd0.5-inc1", PREPROCESSING)
    before = random.getstate()

    def at(key: int) -> torch.Tensor:
        with keyed_randomness(key):
            return change(photo())

    first = [at(key) for key in range(20)]
    random.random()
    assert all(torch.equal(one, at(key)) for key, one in enumerate(first))
    assert sum(torch.equal(one, photo()) for one in first) < 10
    random.setstate(before)
    theirs = rand_augment_transform(
        "rand-m7-mstd0.5-inc1", {"translate_const": 18, "img_mean": (124, 116, 104)}
    )
    with keyed_randomness(3):
        seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    assert torch.equal(first[3], pil_to_tensor(theirs(to_pil_image(photo()))))


def test_pythons_and_numpys_random_numbers_are_left_as_they_were():
    change = AutoAugment("rand-m7-mstd0.5-inc1", PREPROCESSING)
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    change(photo())
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.mark.parametrize("name", ["ranb-m7", "rand-x7", "nothing"])
def test_an_unknown_automatic_augmentation_is_refused_with_an_example(name: str, tmp_path: Path, capsys):
    arguments = ("--dataset_name", "digits", "--model", "my_resnet20", "--auto_augment", name)
    assert main([*arguments, "--output_dir", str(tmp_path / "run")]) == 2
    assert "rand-m7-mstd0.5-inc1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
