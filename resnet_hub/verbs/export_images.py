"""The images that exported files are compared on: those that are named, a run's own, or random pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnet_hub.errors import DataError, UserError
from resnet_hub.images import BadImageError, open_image
from resnet_hub.preprocessing import Preprocessing
from resnet_hub.results import RunReport

_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
        ".ppm",
    )
)
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
    model: str, preprocessing: Preprocessing, *, given: Sequence[Path], at_most: int, must_be_real: bool
) -> Pictures:
    """At most so many images: of `given`, or of the validation split of the run `model`, or random pixels.

    Raises:
        UserError: none can be read, or `must_be_real` and there are none.
    """
    if given:
        return _of_files(_image_files(given), preprocessing, at_most)
    run = Path(model)
    try:
        if (run / "config.yaml").is_file() and (run / "report.json").is_file():
            return _of_run(run, preprocessing, at_most)
    except UserError as error:
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


def _image_files(given: Sequence[Path]) -> list[Path]:
    """The files that are named, and those in the folders that are."""
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _SUFFIXES]
            if not found:
                raise DataError(f"--images {path}: the folder holds no image file.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"--images {path}: there is no such file or folder.")
    return files


def _of_files(files: Sequence[Path], preprocessing: Preprocessing, at_most: int) -> Pictures:
    pixels: list[Tensor] = []
    unreadable: list[str] = []
    for number in _evenly(len(files), at_most):
        try:
            pixels.append(preprocessing(open_image(files[number], mode=preprocessing.mode)))
        except BadImageError as error:
            unreadable.append(f"{files[number]} {error}")
    if not pixels:
        raise DataError(f"None of the images can be read: {unreadable[0]}")
    return Pictures(
        pixels=torch.stack(pixels), origin=f"{len(pixels)} image files", unreadable=tuple(unreadable)
    )


def _of_run(run: Path, preprocessing: Preprocessing, at_most: int) -> Pictures:
    """Validation images of the run, read again from its data set."""
    from resnet_hub.finetuning.config import FinetuneConfig, load_config  # noqa: PLC0415  needs `finetune`
    from resnet_hub.finetuning.data import load_data  # noqa: PLC0415

    total = sum(split.num_images for split in RunReport.load(run / "report.json").splits.values())
    if total > _LARGEST_DATA_SET:
        raise DataError(f"It has {total:,} images, which would all be read.")
    data = load_data(FinetuneConfig(**load_config(run / "config.yaml")))
    split = data.validation or data.train
    images = [split.image(number, preprocessing.mode) for number in _evenly(len(split), at_most)]
    pixels = torch.stack([preprocessing(image) for image in images])
    return Pictures(pixels=pixels, origin=f"{split.name} images of {data.name}")


def _evenly(total: int, at_most: int) -> list[int]:
    """Positions spread evenly over `total`."""
    return np.unique(np.linspace(0, total - 1, min(at_most, total)).round().astype(int)).tolist()
