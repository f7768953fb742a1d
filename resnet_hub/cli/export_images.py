"""The images that exported files are compared on: those that are named, a run's own, or random pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resnet_hub.errors import DataError, UserError
from resnet_hub.images.decoding import BadImageError, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.inputs import ImageInput, find_images
from resnet_hub.results import RunReport

if TYPE_CHECKING:
    from resnet_hub.finetuning.data.split import Split

_LARGEST_DATA_SET = 50_000
"""Images of a data set that is opened only for a few of them; all are read once."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images ready for a model."""

    pixels: Tensor
    """uint8 (images, channels, height, width), resized and cropped."""
    origin: str
    """Where they are from, in words."""
    unreadable: tuple[str, ...] = ()


def find_pictures(
    model: str, preprocessing: Preprocessing, *, given: Sequence[str], at_most: int, must_be_real: bool
) -> Pictures:
    """At most so many images: of `given`, or of the validation split of the run `model`, or random pixels.

    Raises:
        UserError: none can be read, or `must_be_real` and there are none.
    """
    if given:
        found = _of_files(find_images(given), preprocessing, at_most)
        if must_be_real and len(found.pixels) < 2:
            raise DataError("int8 wants at least two images: one to take ranges from, one to compare on.")
        return found
    run = Path(model)
    try:
        if is_run(run):
            return _of_run(run, preprocessing, at_most)
    except (UserError, ImportError) as error:  # `resnet_hub[finetune]` may not be installed here
        if must_be_real:
            raise DataError(
                f"The data of {run} is not to be had: {error} Name images with --images."
            ) from error
    if must_be_real:
        raise DataError(
            "int8 takes the ranges of its features from images of the kind that the model will see. Name "
            "some hundred, or a folder of them, with --images."
        )
    generator = torch.Generator().manual_seed(0)
    size = (min(at_most, 32), preprocessing.num_channels, *preprocessing.image_size)
    return Pictures(
        pixels=torch.randint(0, 256, size, dtype=torch.uint8, generator=generator), origin="random pixels"
    )


def _of_files(files: Sequence[ImageInput], preprocessing: Preprocessing, at_most: int) -> Pictures:
    pixels: list[Tensor] = []
    unreadable: list[str] = []
    for number in _evenly(len(files), at_most):
        try:
            pixels.append(preprocessing(open_image(files[number].read(), mode=preprocessing.mode)))
        except BadImageError as error:
            unreadable.append(f"{files[number].name} {error}")
    if not pixels:
        raise DataError(f"None of the images can be read: {unreadable[0]}")
    return Pictures(
        pixels=torch.stack(pixels), origin=f"{len(pixels)} image files", unreadable=tuple(unreadable)
    )


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a finished run."""
    return (folder / "config.yaml").is_file() and (folder / "report.json").is_file()


def validation_split(run: Path) -> "Split":
    """The images that the run validated on (or trained on, if it did not validate), from its data set.

    Raises:
        UserError: the data is not there, or too large to be read through for a few images.
    """
    from resnet_hub.finetuning.config.options import FinetuneConfig  # noqa: PLC0415  needs `finetune`
    from resnet_hub.finetuning.config.yaml_file import load_config  # noqa: PLC0415  needs `finetune`
    from resnet_hub.finetuning.data.load import load_data  # noqa: PLC0415

    total = sum(split.num_images for split in RunReport.load(run / "report.json").splits.values())
    if total > _LARGEST_DATA_SET:
        raise DataError(f"It has {total:,} images, which would all be read.")
    data = load_data(FinetuneConfig(**load_config(run / "config.yaml")))
    return data.validation or data.mapped_train


def _of_run(run: Path, preprocessing: Preprocessing, at_most: int) -> Pictures:
    split = validation_split(run)
    images = [split.image(number, preprocessing.mode) for number in _evenly(len(split), at_most)]
    pixels = torch.stack([preprocessing(image) for image in images])
    return Pictures(pixels=pixels, origin=f"{split.name} images of the run")


def _evenly(total: int, at_most: int) -> list[int]:
    """Positions spread evenly over `total`."""
    return np.unique(np.linspace(0, total - 1, min(at_most, total)).round().astype(int)).tolist()
