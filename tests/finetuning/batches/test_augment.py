"""Augmentation draws what torchvision draws, keeps what it promises, and costs no more pixels than needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches.augment import (
    CropAndResize,
    build_mixer,
    build_train_transform,
    build_train_transforms,
)
from resnet_hub.finetuning.config.settings import ImageSettings
from resnet_hub.finetuning.machine.seeds import keyed_randomness
from resnet_hub.finetuning.report.figures import draw_batch
from resnet_hub.images.decoding import ColorMode, EncodedImage, Pixels, open_image, read_header
from resnet_hub.images.preprocessing import Preprocessing

from ..image_files import encoded, picture
from ..settings import settings_of

COLOR = Preprocessing(
    image_size=(80, 80),
    crop_fraction=0.9,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.2),
)
SMALL = replace(COLOR, image_size=(32, 32), crop_fraction=1.0)
GREY = replace(COLOR, mean=(0.4,), std=(0.2,))
NAMES = ["none", "crop", "light", "randaugment", "trivialaugment", "3-augment"]


def settings(preprocessing: Preprocessing, **options) -> ImageSettings:
    return settings_of(image_size=preprocessing.image_size[0], **options).images


def large_jpeg(seed: int = 0, width: int = 1600, height: int = 1200) -> bytes:
    return encoded(picture(width, height, seed=seed), "JPEG", quality=95)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("preprocessing", [COLOR, SMALL, GREY], ids=["large", "small", "grey"])
def test_every_augmentation_gives_bytes_of_the_right_size_and_differs_by_key_alone(name, preprocessing):
    erasing = {} if name == "none" else {"random_erasing": 0.5}
    transform = build_train_transform(settings(preprocessing, augmentation=name, **erasing), preprocessing)
    data = encoded(picture(120, 90, mode=preprocessing.mode), "JPEG")

    def at(key: int) -> torch.Tensor:
        with keyed_randomness(key):
            return transform(read_header(data))

    draws = [at(key) for key in range(8)]
    assert all(draw.dtype == torch.uint8 for draw in draws)
    assert all(draw.shape == (preprocessing.num_channels, *preprocessing.image_size) for draw in draws)
    assert torch.equal(at(3), draws[3])
    different = len({draw.numpy().tobytes() for draw in draws})
    assert different == 1 if name == "none" else different > 4


def test_without_augmentation_training_sees_what_evaluation_sees():
    data = large_jpeg()
    pixels = build_train_transform(settings(COLOR, augmentation="none"), COLOR)(read_header(data))
    assert torch.equal(pixels, COLOR(open_image(data)))


def test_without_augmentation_what_would_change_images_is_refused():
    for option in ({"color_jitter": 0.4}, {"random_erasing": 0.2}):
        with pytest.raises(ConfigError, match="would change them"):
            settings(COLOR, augmentation="none", **option)


def test_images_that_grow_past_small_sizes_are_cropped_in_one_way():
    growing = settings(COLOR, first_image_size=56, num_train_epochs=6)
    transforms = build_train_transforms(growing, COLOR)
    sizes = [transform.crop.preprocessing.image_size[0] for transform in transforms]
    assert (sizes[0], sizes[-1]) == (64, 80)
    assert {type(transform.crop) for transform in transforms} == {CropAndResize}


def test_crops_are_drawn_as_torchvision_draws_them():
    crop = CropAndResize(COLOR, area=(0.08, 1.0))
    for seed, (width, height) in enumerate([(500, 375), (375, 500), (4000, 3000), (30, 1000), (1, 1)] * 20):
        with keyed_randomness(seed):
            ours = crop.draw(width, height)
        with keyed_randomness(seed):
            theirs = RandomResizedCrop.get_params(
                Image.new("L", (width, height)), [0.08, 1.0], [3 / 4, 4 / 3]
            )
        assert ours == theirs


@pytest.mark.parametrize("width", [200, 700, 1600, 3000])
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_decoding_shows_the_same_part_of_the_image(width: int, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(width, width * 3 // 4), "JPEG", quality=95, exif=exif)
    crop = CropAndResize(COLOR, area=(0.08, 1.0))
    for seed in range(10):
        with keyed_randomness(seed):
            ours = crop(read_header(data))
        upright = open_image(data)
        with keyed_randomness(seed):
            box = crop.draw(*upright.size)
        theirs = F.pil_to_tensor(F.resized_crop(upright, *box, size=[80, 80]))  # pyright: ignore[reportArgumentType]
        difference = (ours.int() - theirs.int()).abs()
        assert difference.float().mean() < 2
        assert difference.max() < 16


def test_large_jpegs_are_decoded_no_larger_than_their_crop_needs(monkeypatch: pytest.MonkeyPatch):
    decoded = []

    def pixels(encoded: EncodedImage, mode: ColorMode, *, at_least: tuple[int, int]) -> Pixels:
        decoded.append(encoded.decode(mode, at_least=at_least).size)
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(EncodedImage, "pixels", pixels)
    with keyed_randomness(0):
        CropAndResize(COLOR, area=(1.0, 1.0))(read_header(large_jpeg(width=3200, height=2400)))
    assert decoded == [(400, 300)]


def test_mild_crops_show_more_of_the_image_than_standard_ones():
    areas = {}
    for name in ("crop", "light"):
        transform = build_train_transform(settings(COLOR, augmentation=name), COLOR)
        with keyed_randomness(0):
            draws = [transform.crop.draw(400, 300) for _ in range(200)]  # pyright: ignore[reportFunctionMemberAccess]
        areas[name] = min(height * width / 120_000 for _, _, height, width in draws)
    assert areas["crop"] < 0.2
    assert areas["light"] > 0.34


def test_small_images_are_shifted_and_never_rescaled():
    image = picture(32, 32)
    transform = build_train_transform(settings(SMALL, augmentation="crop", horizontal_flip=0.0), SMALL)
    whole = COLOR.at_size(32)(image)
    assert whole.shape == (3, 32, 32)
    padded = F.pad(SMALL(image), [4, 4, 4, 4], fill=0)
    windows = {
        padded[:, top : top + 32, left : left + 32][:, 4:28, 4:28].numpy().tobytes(): (top, left)
        for top in range(9)
        for left in range(9)
    }
    places = set()
    for key in range(100):
        with keyed_randomness(key):
            shifted = transform(read_header(image))
        places.add(windows[shifted[:, 4:28, 4:28].numpy().tobytes()])
    assert len(places) > 40


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_images_are_mirrored_as_often_as_asked(probability: float, share: float):
    mirrored = settings(SMALL, augmentation="crop", horizontal_flip=probability)
    transform = build_train_transform(mirrored, SMALL)
    image = Image.fromarray(np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None], 32, axis=0)).convert(
        "RGB"
    )
    mirrored = 0
    for key in range(200):
        with keyed_randomness(key):
            pixels = transform(read_header(image)).int()
        mirrored += int(pixels[0, 16, 6] > pixels[0, 16, 25])
    assert mirrored / 200 == pytest.approx(share, abs=0.12)


def test_randomness_outside_is_untouched():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with keyed_randomness(5):
        torch.rand(100)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_mixed_unless_asked_for():
    assert build_mixer(settings(SMALL), 3) is None


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_targets_are_mixed_in_the_proportion_of_the_pixels(options: dict):
    mix = build_mixer(settings(SMALL, **options), 4)
    labels = torch.arange(4)
    images = labels.float().view(4, 1, 1, 1).expand(4, 1, 32, 32)
    for seed in range(20):
        mixed, targets = mix(images, labels, torch.Generator().manual_seed(seed))
        again, _ = mix(images, labels, torch.Generator().manual_seed(seed))
        assert torch.equal(mixed, again)
        assert torch.allclose(targets.sum(dim=1), torch.ones(4))
        expected = (targets * labels.float()).sum(dim=1)
        assert torch.allclose(mixed.mean(dim=(1, 2, 3)), expected, atol=1e-4)


def test_mixing_takes_several_labels_and_keeps_the_memory_format():
    mix = build_mixer(settings(SMALL, mixup=1.0), 3)
    images = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 1]])
    mixed, mixed_targets = mix(images, targets, torch.Generator().manual_seed(0))
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert mixed_targets.shape == (4, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_becomes_a_picture(channels: int):
    images = torch.full((10, channels, 16, 16), 77, dtype=torch.uint8)
    sheet = draw_batch(images)
    assert sheet.size == (4 * (8 * 18 + 2), 4 * (2 * 18 + 2))  # small images are enlarged
    assert sheet.getpixel((20, 20)) == (77, 77, 77)
