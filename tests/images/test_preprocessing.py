"""Preprocessing gives the numbers that timm's own evaluation gives."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

import resnet_hub  # noqa: F401 - registers the family
from resnet_hub.errors import UserError
from resnet_hub.images.preprocessing import Preprocessing


def picture(width: int = 301, height: int = 200) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", ["my_resnet18", "resnet26t", "resnet10t", "my_resnet20"])
def test_the_numbers_are_those_of_timm(name: str):
    model = timm.create_model(name)
    config = resolve_model_data_config(model, use_test_size=True)
    theirs = create_transform(**config, is_training=False)(picture())
    preprocessing = Preprocessing.of_model(model)
    ours = preprocessing.normalize(preprocessing(picture())[None])[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_other_sizes_and_crop_modes_are_those_of_timm(crop_mode: str):
    config = {"crop_pct": 0.9, "crop_mode": crop_mode, "interpolation": "bilinear"}
    preprocessing = Preprocessing(
        image_size=(96, 128),
        crop_fraction=0.9,
        crop_mode=crop_mode,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    theirs = create_transform((3, 96, 128), **config, mean=(0.5,) * 3, std=(0.5,) * 3)(picture())
    torch.testing.assert_close(preprocessing.normalize(preprocessing(picture())[None])[0], theirs)


def test_an_image_size_replaces_that_of_the_model():
    model = timm.create_model("my_resnet18")
    assert Preprocessing.of_model(model, 64)(picture()).shape == (3, 64, 64)
    assert Preprocessing.of_model(model).at_size(48).image_size == (48, 48)


def test_gray_models_get_one_mean():
    preprocessing = Preprocessing.of_model(timm.create_model("my_resnet18", in_chans=1))
    assert preprocessing.num_channels == 1
    assert preprocessing.mode == "L"
    assert preprocessing.mean == pytest.approx((0.449,))


def test_models_with_five_channels_are_refused():
    with pytest.raises(UserError, match="5 input channels"):
        Preprocessing.of_model(timm.create_model("my_resnet18", in_chans=5))


def test_normalizing_keeps_the_memory_format_and_gives_the_asked_type():
    preprocessing = Preprocessing.of_model(timm.create_model("my_resnet18"))
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    normalized = preprocessing.normalize(images, dtype=torch.bfloat16)
    assert normalized.dtype == torch.bfloat16
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_normalizing_gives_the_same_bits_in_both_memory_formats():
    preprocessing = Preprocessing.of_model(timm.create_model("my_resnet18"))
    images = torch.randint(256, (3, 3, 9, 7), dtype=torch.uint8)
    last = preprocessing.normalize(images.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, preprocessing.normalize(images))
