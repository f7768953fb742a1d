"""`resnet-hub export`: a model as ONNX and torch.export files, each compared with the model."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.cli.tables import print_json, print_rows
from resnet_hub.cores import available_cores
from resnet_hub.errors import DataError, ModelError, UserError, naming_the_extra
from resnet_hub.formats.writing import ExportedFile, ExportReport, ExportRequest, write_formats
from resnet_hub.images.decoding import BadImageError, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import class_names_of
from resnet_hub.prediction.inputs import ImageInput, find_images
from resnet_hub.prediction.open_model import open_model
from resnet_hub.results import RunReport
from resnet_hub.terminal import say

if TYPE_CHECKING:
    from resnet_hub.finetuning.data.split import Split

_LARGEST_DATA_SET = 50_000
"""Images of a data set that is opened only for a few of them; all are read once."""
_NUM_RANDOM = 32


def run_export(arguments: argparse.Namespace) -> int:
    """Write the files, compare each with the model, print the table; 1 if any had to be refused."""
    torch.set_num_threads(arguments.threads or available_cores())
    model = open_model(arguments.model, revision=arguments.revision, pretrained=not arguments.no_pretrained)
    pictures = _find_pictures(arguments, Preprocessing.of_model(model))
    calibration, compared = None, pictures.pixels
    if pictures.are_real and any(kind.precision == "int8" for kind in arguments.formats):
        calibration, compared = compared[0::2], compared[1::2]
    request = ExportRequest(
        kinds=tuple(dict.fromkeys(arguments.formats)),
        pixels=compared,
        pixels_from=pictures.origin,
        calibration=calibration,
        with_preprocessing=arguments.with_preprocessing,
        largest_deviation=arguments.tolerance,
        least_agreement=arguments.min_agreement,
        batch_size=arguments.batch_size,
        facts={"source": _source(arguments.model), "class_names": _class_names(model)},
    )
    report = write_formats(model, arguments.output_dir, request)
    _show(report, pictures, arguments)
    return 1 if report.refused else 0


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """Images that the files are compared on, ready for the model."""

    pixels: Tensor
    """uint8 (images, channels, height, width), resized and cropped."""
    origin: str
    """Where they are from, in words."""
    are_real: bool = True
    unreadable: tuple[str, ...] = ()


def _find_pictures(arguments: argparse.Namespace, preprocessing: Preprocessing) -> _Pictures:
    """Those of `--images`, else of the run's validation split, else random pixels."""
    if arguments.images:
        return _of_files(find_images(arguments.images), preprocessing, arguments.num_images)
    origin, run = "random pixels", Path(arguments.model)
    if is_run(run):
        try:
            return _of_run(run, preprocessing, arguments.num_images)
        except UserError as error:  # its data is elsewhere by now, or cannot be opened here
            origin = f"random pixels, as the data of the run cannot be used: {error}"
    size = (_NUM_RANDOM, preprocessing.num_channels, *preprocessing.image_size)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return _Pictures(pixels=pixels[: arguments.num_images], origin=origin, are_real=False)


def _of_files(files: Sequence[ImageInput], preprocessing: Preprocessing, at_most: int) -> _Pictures:
    pixels: list[Tensor] = []
    unreadable: list[str] = []
    for number in evenly(len(files), at_most):
        try:
            pixels.append(preprocessing(open_image(files[number].read(), mode=preprocessing.mode)))
        except BadImageError as error:
            unreadable.append(f"{files[number].name} {error}")
    if not pixels:
        raise DataError(f"None of the images can be read: {unreadable[0]}")
    return _Pictures(
        pixels=torch.stack(pixels), origin=f"{len(pixels)} image files", unreadable=tuple(unreadable)
    )


def _of_run(run: Path, preprocessing: Preprocessing, at_most: int) -> _Pictures:
    split = validation_split(run)
    images = [split.image(number, preprocessing.mode) for number in evenly(len(split), at_most)]
    pixels = torch.stack([preprocessing(image) for image in images])
    return _Pictures(pixels=pixels, origin=f"{split.name} images of the run")


def is_run(folder: Path) -> bool:
    """Whether it is the folder of a finished run."""
    return (folder / "config.yaml").is_file() and (folder / "report.json").is_file()


def validation_split(run: Path) -> "Split":
    """The images that the run validated on (or trained on, if it did not validate), from its data set.

    Raises:
        UserError: the data is missing, too large to be read through for a few images, or needs an extra.
    """
    with naming_the_extra():
        from resnet_hub.finetuning.data.load import load_data  # noqa: PLC0415
        from resnet_hub.finetuning.run_folder.folder import RunFolder  # noqa: PLC0415

    total = sum(split.num_images for split in RunReport.load(run / "report.json").splits.values())
    if total > _LARGEST_DATA_SET:
        raise DataError(f"It has {total:,} images, which would all be read.")
    data = load_data(RunFolder(run).begun_config())
    return data.validation or data.mapped_train


def evenly(total: int, at_most: int) -> list[int]:
    """Positions spread evenly over `total`."""
    return np.unique(np.linspace(0, total - 1, min(at_most, total)).round().astype(int)).tolist()


def _source(name: str) -> str:
    """What was asked for; of a folder its name alone, since the record travels."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _class_names(model: torch.nn.Module) -> list[str] | None:
    try:
        return class_names_of(model)
    except ModelError:  # a model of others may have none
        return None


def _show(report: ExportReport, pictures: _Pictures, arguments: argparse.Namespace) -> None:
    for problem in pictures.unreadable:
        say(f"left out: {problem}", file=sys.stderr)
    if arguments.json:
        print_json(asdict(report))
    else:
        print_rows([_row(file) for file in report.files], title="exported")
        say(f"Compared on {report.num_images} images ({report.images_from}).")
        speed = f"{report.eager_images_per_second:.1f} images/s"
        say(f"The model itself: {speed}, batches of {report.batch_size}, {report.threads} threads.")
        say(f"Input {report.inputs}; outputs: {', '.join(report.outputs)}.")
    for file in report.refused:
        say(f"resnet-hub: {file.file} is refused and removed: {file.refused}", file=sys.stderr)
    if len(report.refused) < len(report.files):
        say(f"Written: {arguments.output_dir}", file=sys.stderr if arguments.json else sys.stdout)


def _row(file: ExportedFile) -> dict[str, Any]:
    deviation, speed = file.deviation, file.images_per_second
    return {
        "file": file.file,
        "MB": None if file.megabytes is None else f"{file.megabytes:.1f}",
        "logits off by": deviation and f"{deviation.logit:.2g} of {deviation.largest_logit:.3g}",
        "limit": f"{file.largest_deviation:.2%}",
        "probabilities off by": deviation and f"{deviation.probability:.2g}",
        "same top-1": deviation and f"{deviation.agreement:.2%}",
        "images/s": speed and f"{speed:.1f}",
        "x eager": file.ratio_to_eager and f"{file.ratio_to_eager:.2f}",
        "result": "refused" if file.refused else "ok",
    }
