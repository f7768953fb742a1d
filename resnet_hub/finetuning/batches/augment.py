"""Training augmentation: which part of an image is cut out, how its colours change, what is mixed with what.

All draws come from torch's generator, seeded by `keyed_randomness` for each sample, so they are equal in any
worker, on any process and after a resume.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.data.auto_augment import (
    augment_and_mix_transform,
    auto_augment_transform,
    rand_augment_transform,
)
from torch import Tensor, nn
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.transforms.v2 import functional as F

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches.memory_cache import evaluated
from resnet_hub.finetuning.config.hyperrule import SMALL_IMAGE
from resnet_hub.finetuning.config.settings import ImageSettings
from resnet_hub.finetuning.machine.seeds import keyed_randomness
from resnet_hub.images.decoding import DecodableImage
from resnet_hub.images.preprocessing import Preprocessing, resize_pixels

_SMALL_PADDING = 1 / 8  # 4 pixels around 32: He et al. 2016, arXiv:1512.03385, section 4.2
_ASPECT = (3 / 4, 4 / 3)  # Szegedy et al. 2015, arXiv:1409.4842, section 6
_STANDARD_AREA = (0.08, 1.0)  # the same
# Mild crops for short fine-tuning: of an 8 % crop a pretrained network often sees no part of the object.
_MILD_AREA = (0.35, 1.0)

TrainTransform = Callable[[DecodableImage], Tensor]


def build_train_transforms(settings: ImageSettings, preprocessing: Preprocessing) -> list[TrainTransform]:
    """The transform of each epoch: images grow from `first_image_size` to the size of `preprocessing`.

    They grow through the first two thirds of the epochs; the last third, where the rate is low, has
    full training images.
    """
    by_size: dict[int, TrainTransform] = {}
    transforms = []
    for size in settings.epoch_sizes:
        if size not in by_size:
            by_size[size] = build_train_transform(settings, preprocessing.at_size(size))
        transforms.append(by_size[size])
    return transforms or [build_train_transform(settings, preprocessing)]


def build_train_transform(settings: ImageSettings, preprocessing: Preprocessing) -> TrainTransform:
    """The transform of a training image, from its header to uint8 pixels (channels, height, width).

    Sizes, interpolation and mean are those of `preprocessing`; `settings` say which
    augmentation it is, and how strong. With the augmentation `none` the result is that of evaluation.
    """
    name = settings.augmentation
    if name == "none":
        return EvaluationTransform(preprocessing)
    mean_color: Any = [round(255 * mean) for mean in preprocessing.mean]
    changes: list[nn.Module] = []
    if name in _COLORS:
        changes.append(_COLORS[name](mean_color))
    if settings.auto_augment:
        changes.append(AutoAugment(settings.auto_augment, preprocessing))
    if settings.color_jitter:
        changes.append(v2.ColorJitter(*(settings.color_jitter,) * 3))
    if settings.random_erasing:
        changes.append(v2.RandomErasing(p=settings.random_erasing, value=mean_color))
    return TrainingTransform(
        crop=(
            PadAndCrop(preprocessing)
            if _is_small(settings)
            else CropAndResize(preprocessing, area=_area(settings))
        ),
        horizontal_flip=settings.horizontal_flip,
        changes=tuple(changes),
    )


def fixed_views(
    settings: ImageSettings, preprocessing: Preprocessing, *, reestimates_batchnorm: bool
) -> list[Preprocessing]:
    """How training images are resized, and cropped at their centre, before anything is drawn.

    Nothing for larger images, whose crops are cut out of the image as it came.
    """
    is_padded = _is_small(settings)
    sizes = set(settings.epoch_sizes) if is_padded or settings.augmentation == "none" else set()
    views = [preprocessing.at_size(size) for size in sorted(sizes)]
    if reestimates_batchnorm and preprocessing not in views:
        views.append(preprocessing)
    return views


def short_side_to_keep(settings: ImageSettings, preprocessing: Preprocessing) -> int:
    """The short side in pixels to which an image can be reduced and still have enough for every random crop.

    The narrowest crop that can be drawn, of the smallest area and the most extreme aspect, then still has the
    pixels that the network takes; and the image of evaluation twice as many.
    """
    size = max(preprocessing.image_size)
    narrowest = math.sqrt(_area(settings)[0] * min(_ASPECT))
    return math.ceil(max(size / narrowest, 2 * size / preprocessing.crop_fraction))


def _is_small(settings: ImageSettings) -> bool:
    """Whether images are padded and cropped: by the size that images grow to."""
    return settings.image_size <= SMALL_IMAGE


def _area(settings: ImageSettings) -> tuple[float, float]:
    """Share of the image that a random crop takes."""
    return _MILD_AREA if settings.augmentation == "light" else _STANDARD_AREA


@dataclass(frozen=True)
class EvaluationTransform:
    """Evaluation's resize and centre crop, from the header to uint8 pixels."""

    preprocessing: Preprocessing

    def __call__(self, encoded: DecodableImage) -> Tensor:
        """The pixels, uint8 (channels, height, width)."""
        return evaluated(encoded, self.preprocessing)


@dataclass(frozen=True, kw_only=True)
class TrainingTransform:
    """Crop, mirror, change colours, erase: in this order, each drawn from torch's generator."""

    crop: "CropAndResize | PadAndCrop"
    horizontal_flip: float
    changes: tuple[nn.Module, ...]

    def __call__(self, encoded: DecodableImage) -> Tensor:
        """The pixels, uint8 (channels, height, width)."""
        image = self.crop(encoded)
        if torch.rand(()) < self.horizontal_flip:
            image = image.flip(-1)
        for change in self.changes:
            image = change(image)
        return image


@dataclass(frozen=True)
class CropAndResize:
    """A random part of the image, resized: torchvision's RandomResizedCrop, drawn before anything is decoded.

    The part is drawn from the size in the header, with torchvision's own function, so the distribution of
    crops is the same; then a JPEG is decoded at the smallest scale at which the part still has enough pixels.
    """

    preprocessing: Preprocessing
    area: tuple[float, float] = field(kw_only=True)

    def __call__(self, encoded: DecodableImage) -> Tensor:
        """The part at the size of the preprocessing, uint8 (channels, height, width)."""
        height, width = self.preprocessing.image_size
        top, left, part_height, part_width = self.draw(encoded.width, encoded.height)
        pixels = encoded.pixels(
            self.preprocessing.mode,
            at_least=(-(-encoded.width * width // part_width), -(-encoded.height * height // part_height)),
        )
        down, across = pixels.shape[0] / encoded.height, pixels.shape[1] / encoded.width
        part = pixels[
            round(top * down) : round((top + part_height) * down),
            round(left * across) : round((left + part_width) * across),
        ]
        return resize_pixels(part, height=height, width=width, interpolation=self.preprocessing.interpolation)

    def draw(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random part of an image of this size."""
        shape_only = torch.empty((1, height, width), device="meta")
        return RandomResizedCrop.get_params(shape_only, list(self.area), list(_ASPECT))


@dataclass(frozen=True)
class PadAndCrop:
    """The image of evaluation, padded with the mean colour by an eighth and cropped at a random place."""

    preprocessing: Preprocessing

    def __call__(self, encoded: DecodableImage) -> Tensor:
        """As large as the preprocessing makes it, uint8 (channels, height, width)."""
        image = evaluated(encoded, self.preprocessing)
        _, height, width = image.shape
        down, right = round(_SMALL_PADDING * height), round(_SMALL_PADDING * width)
        mean_color: Any = [round(255 * mean) for mean in self.preprocessing.mean]
        padded = F.pad(image, [right, down], fill=mean_color)
        top, left = int(torch.randint(2 * down + 1, ())), int(torch.randint(2 * right + 1, ()))
        return padded[:, top : top + height, left : left + width]


def _three_augment(_fill: Any) -> nn.Module:
    """Grey, solarised or blurred, then jittered colours: Touvron et al. 2022, arXiv:2204.07118, section 3."""
    return v2.Compose(
        [
            v2.RandomChoice(
                [
                    v2.RandomGrayscale(p=1.0),
                    v2.RandomSolarize(threshold=128, p=1.0),
                    v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0)),
                ]
            ),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3),
        ]
    )


# What is done to the colours (and, in the first two, the shape) of the cropped image; a function of the
# colour that fills what a turned image leaves empty. RandAugment with the magnitude for ResNet-50: Cubuk et
# al. 2019, arXiv:1909.13719; TrivialAugment: Müller and Hutter 2021, arXiv:2103.10158.
_COLORS: dict[str, Callable[[Any], nn.Module]] = {
    "randaugment": lambda fill: v2.RandAugment(num_ops=2, magnitude=9, fill=fill),
    "trivialaugment": lambda fill: v2.TrivialAugmentWide(fill=fill),
    "3-augment": _three_augment,
}


class AutoAugment(nn.Module):
    """timm's automatic augmentation by its configuration string, drawn from torch's generator.

    RandAugment (`rand-m9-mstd0.5-inc1`), AugMix (`augmix-m3-w3`) and the learnt policies (`original`, `v0`):
    see `timm.data.auto_augment`. It draws from Python's and NumPy's generators; they are seeded from torch's.
    """

    def __init__(self, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        hints: dict[str, Any] = {  # those of timm's create_transform
            "translate_const": int(0.45 * min(preprocessing.image_size)),
            "img_mean": tuple(min(255, round(255 * mean)) for mean in preprocessing.mean),
        }
        if name.startswith("augmix"):
            hints["translate_pct"] = 0.3
        self._change = parse_auto_augment(name, hints)
        self._description = f"{name!r}, {hints}"

    def extra_repr(self) -> str:
        """All that decides about the result; the feature cache goes by it."""
        return self._description

    def forward(self, image: Tensor) -> Tensor:
        """The changed image, uint8 (channels, height, width)."""
        seed = int(torch.randint(2**31, ()))
        before = random.getstate(), np.random.get_state()  # noqa: NPY002  what timm draws from
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            return F.pil_to_tensor(self._change(F.to_pil_image(image)))
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def parse_auto_augment(name: str, hints: dict[str, Any] | None = None) -> Any:
    """The transform of PIL images that timm makes of a configuration string; ConfigError for a wrong one."""
    make = next((make for start, make in _AUTO_AUGMENTS.items() if name.startswith(start)), None)
    try:
        if make is None:
            raise ValueError(f"it begins with none of {', '.join(_AUTO_AUGMENTS)}")
        return make(name, hints or {})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"--auto_augment {name} is not known to timm ({error or type(error).__name__}). Examples: "
            "rand-m7-mstd0.5-inc1, augmix-m3-w3, original."
        ) from error


_AUTO_AUGMENTS: dict[str, Callable[[str, Any], Any]] = {
    "rand": rand_augment_transform,
    "augmix": augment_and_mix_transform,
    "original": auto_augment_transform,
    "v0": auto_augment_transform,
    "3a": auto_augment_transform,
}


def build_mixer(settings: ImageSettings, num_classes: int) -> "Mixer | None":
    """Mixup, CutMix or both in turns, as the settings ask; None if they ask for neither."""
    transforms: list[v2.Transform] = []
    if settings.mixup:
        transforms.append(v2.MixUp(alpha=settings.mixup, num_classes=num_classes))
    if settings.cutmix:
        transforms.append(v2.CutMix(alpha=settings.cutmix, num_classes=num_classes))
    return Mixer(v2.RandomChoice(transforms)) if transforms else None


@dataclass(frozen=True)
class Mixer:
    """Mixes each image of a batch, and its target, with its neighbour in the batch, on their device.

    Source: mixup, Zhang et al. 2018, arXiv:1710.09412; CutMix, Yun et al. 2019, arXiv:1905.04899.
    """

    choice: v2.RandomChoice

    def __call__(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mixed images (batch, channels, height, width) and float targets (batch, classes).

        Args:
            images: Normalised images.
            targets: int64 classes (batch,) or float32 targets (batch, classes).
            generator: On the CPU; the result is a function of its state.
        """
        with keyed_randomness(int(torch.randint(2**62, (), generator=generator))):
            mixed, mixed_targets = self.choice(images, targets)
        if images.is_contiguous(memory_format=torch.channels_last):
            mixed = mixed.contiguous(memory_format=torch.channels_last)
        return mixed, mixed_targets
