"""Turn an opened image into the network's input, in evaluation, prediction and export.

The numbers are timm's: resize, center crop and normalization come import math
from the model's pretrained config, and the
transform is timm's own. Only the last step waits: images stay uint8 until they are on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import pil_to_tensor

from resnet_hub.images.decoding import MAX_PIXELS, BadImageError, ColorMode, Pixels, color_mode


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are resized, cropped and normalized for one model.

    Calling it with a PIL image in the right `mode` gives uint8 (channels, height, width); `normalize` takes
    batches of these on their device.
    """

    image_size: tuple[int, int]
    """Height and width in pixels."""
    crop_fraction: float
    """Share of the resized short side that the center crop keeps."""
    crop_mode: str
    """timm's: center, squash or border."""
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_channels(self) -> int:
        """1 for gray and 3 for color."""
        return len(self.mean)

    @property
    def num_bytes(self) -> int:
        """Of one image's pixels, as uint8."""
        return math.prod(self.image_size) * self.num_channels

    @property
    def mode(self) -> ColorMode:
        """The PIL mode that images have to be opened in."""
        return color_mode(self.num_channels)

    @classmethod
    def of_model(cls, model: nn.Module, image_size: int | None = None) -> "Preprocessing":
        """The preprocessing that a timm model was evaluated with; `image_size` replaces its test size."""
        found: dict[str, Any] = resolve_model_data_config(model, use_test_size=True)
        _, height, width = found["input_size"]
        channels = _input_channels(model)
        return cls(
            image_size=(height, width) if image_size is None else (image_size, image_size),
            crop_fraction=found["crop_pct"],
            crop_mode=found["crop_mode"],
            interpolation=found["interpolation"],
            mean=_per_channel(found["mean"], channels),
            std=_per_channel(found["std"], channels),
        )

    def timm_config(self) -> dict[str, Any]:
        """The same as timm's data config, the keyword arguments of `timm.data.create_transform`."""
        return {
            "input_size": (self.num_channels, *self.image_size),
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.crop_fraction,
            "crop_mode": self.crop_mode,
        }

    def at_size(self, image_size: int) -> "Preprocessing":
        """The same for another square image size."""
        return replace(self, image_size=(image_size, image_size))

    def __call__(self, image: Image.Image) -> Tensor:
        """Resized and center-cropped pixels, uint8 (channels, height, width)."""
        return pil_to_tensor(self.crop(image))

    def crop(self, image: Image.Image) -> Image.Image:
        """The resized and center-cropped image; BadImageError for what would be too large once resized."""
        left, top, right, bottom = self.crop_box(image.size)
        height, width = self.image_size
        if image.width * image.height * height * width > MAX_PIXELS * (right - left) * (bottom - top):
            raise BadImageError(
                f"too thin: {image.width}x{image.height}, resized for {width}x{height} pixels"
            )
        for transform in self._transforms:
            image = transform(image)
        return image

    def crop_box(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels of an image of this width and height, of what `crop` keeps.

        With border mode the box may be larger than the image.
        """
        resized = [math.floor(side / self.crop_fraction) for side in reversed(self.image_size)]
        scales = [side / length for side, length in zip(resized, size, strict=True)]
        if self.crop_mode != "squash":
            scales = [min(scales) if self.crop_mode == "border" else max(scales)] * 2
        halves = [side / scale / 2 for side, scale in zip(reversed(self.image_size), scales, strict=True)]
        (width, height), (half_width, half_height) = size, halves
        return (
            width / 2 - half_width,
            height / 2 - half_height,
            width / 2 + half_width,
            height / 2 + half_height,
        )

    @cached_property
    def _transforms(self) -> list[Any]:
        """The evaluation transforms of timm without the last, which makes a tensor."""
        return transforms_imagenet_eval(
            self.image_size,
            crop_pct=self.crop_fraction,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            mean=self.mean,
            normalize=False,
        ).transforms[:-1]

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(value / 255 - mean) / std per channel, on the device that the uint8 `images` are on.

        The arithmetic is float32 whatever `dtype` comes out; the memory format is kept.
        """
        constants = _constants if images.device.type == "cpu" else _kept_constants
        scale, offset = constants(self.mean, self.std, images.device)
        if not images.is_contiguous(memory_format=torch.channels_last):
            # In place on a float copy: uint8 times float32 is ten times as slow on a CPU.
            return images.float().mul_(scale.view(-1, 1, 1)).sub_(offset.view(-1, 1, 1)).to(dtype)
        # Row by row: three numbers at a time, as the channels lie, are too few for a CPU's vectors.
        width, channels = images.shape[-1], images.shape[1]
        rows = images.permute(0, 2, 3, 1).flatten(2).float()
        rows.mul_(scale.repeat(width)).sub_(offset.repeat(width))
        return rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2).to(dtype)


def resize_pixels(pixels: Pixels, *, height: int, width: int, interpolation: str) -> Tensor:
    """Pixels (height, width, channels) resized with antialiasing, uint8 (channels, height, width).

    torch's resizing is twice as fast as Pillow's and differs from it by one gray level at most.
    """
    turned = min(pixels.strides) < 0  # which torch does not know
    # As a batch before its channels change places: only so torch sees that they lie last and leaves them so.
    image = torch.from_numpy(pixels.copy() if turned else pixels)[None].permute(0, 3, 1, 2)
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    return interpolate(image, size=(height, width), mode=mode, antialias=True)[0]


def _input_channels(model: nn.Module) -> int:
    """1 or 3, read from the first convolution: the pretrained config of a gray model still says 3."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    color_mode(first.in_channels)  # refuses other numbers
    return first.in_channels


def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset of `value * scale - offset`, each (channels,)."""
    scale = torch.tensor([1 / (255 * deviation) for deviation in std], device=device)
    offset = [average / deviation for average, deviation in zip(mean, std, strict=True)]
    return scale, torch.tensor(offset, device=device)


@cache
def _kept_constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The same, cached: sending them to a GPU again would wait for all work queued before."""
    with torch.inference_mode(False):  # they may be asked for again where gradients are taken
        return _constants(mean, std, device)


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value per channel; a gray image gets the average of the colors' values."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
