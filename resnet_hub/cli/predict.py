"""`resnet-hub predict`: images to labels, on the terminal or into a table."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from resnet_hub.cli.flags import dataset_options
from resnet_hub.cli.tables import print_json, print_rows
from resnet_hub.errors import ConfigError, DataError
from resnet_hub.files import atomic_file
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.batches import ImagePrediction, Readable, predict_images
from resnet_hub.prediction.classify import class_names_of
from resnet_hub.prediction.gradcam import gradcam_overlays
from resnet_hub.prediction.inputs import find_images
from resnet_hub.prediction.open_model import open_model
from resnet_hub.prediction.tables import as_record, check_output, open_table
from resnet_hub.terminal import printable, say


def run_predict(arguments: argparse.Namespace) -> int:
    """Label the images; 1 if not one of them could be read."""
    if arguments.output is not None:
        check_output(arguments.output)
        if arguments.json:
            raise ConfigError("Use either --output or --json, not both.")
    images = _find(arguments)
    model = open_model(arguments.model)
    temperature = _temperature(arguments, model)
    rows: list[ImagePrediction] = []
    unreadable: list[ImagePrediction] = []
    top_k = min(arguments.top_k, len(class_names_of(model)))
    with open_table(arguments.output, top_k=top_k) if arguments.output else nullcontext(rows.append) as add:
        for row in predict_images(
            model,
            images,
            top_k=top_k,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            temperature=temperature,
            each_batch=_overlay_writer(arguments.gradcam, model),
        ):
            (add if row.problem is None else unreadable.append)(row)
    _print(arguments, rows, unreadable, temperature)
    num_readable = len(images) - len(unreadable)
    if arguments.output and num_readable:
        say(f"{num_readable} images in {arguments.output}", file=sys.stderr)
    return 0 if num_readable else 1


def _find(arguments: argparse.Namespace) -> Sequence[Readable]:
    if bool(arguments.images) == bool(arguments.dataset_name):
        raise DataError("Name the images: files, folders, patterns or addresses; or a --dataset_name.")
    options = dataset_options(arguments, "split")
    if arguments.images:
        return find_images(arguments.images, allow_urls=arguments.allow_urls)
    # Image files need none of the packages that data sets need.
    from resnet_hub.finetuning.config.options import DataOptions  # noqa: PLC0415
    from resnet_hub.finetuning.data.load import open_images  # noqa: PLC0415

    split = options.pop("split", None)
    return open_images(DataOptions(**options), split)


def _temperature(arguments: argparse.Namespace, model: nn.Module) -> float:
    if arguments.temperature != "auto":
        return arguments.temperature
    from resnet_hub.prediction.temperature import temperature_of_run  # noqa: PLC0415  needs scipy

    return temperature_of_run(Path(arguments.model), class_names_of(model))


def _overlay_writer(folder: Path | None, model: nn.Module) -> Callable[[list[str], Tensor], None] | None:
    """What saves a Grad-CAM picture for each image, under the image's name and its number."""
    if folder is None:
        return None
    preprocessing = Preprocessing.of_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    saved = 0

    def save(names: list[str], pixels: Tensor) -> None:
        nonlocal saved
        for name, overlay in zip(names, gradcam_overlays(model, pixels, preprocessing), strict=True):
            stem = "".join(
                letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(name).stem
            )
            with atomic_file(folder / f"{saved:05d}_{stem[:80]}.png") as scratch:
                overlay.save(scratch, format="PNG")
            saved += 1

    return save


def _print(
    arguments: argparse.Namespace,
    rows: list[ImagePrediction],
    unreadable: list[ImagePrediction],
    temperature: float,
) -> None:
    if arguments.json:
        record: dict[str, Any] = {
            "model": arguments.model,
            "temperature": temperature,
            "images": [as_record(row) for row in rows],
            "unreadable": [{"image": row.name, "problem": row.problem} for row in unreadable],
        }
        print_json(record)
        return
    if rows:
        print_rows([_terminal_row(row) for row in rows])
    for row in unreadable:
        say(f"unreadable: {printable(row.name, keep='')} {row.problem}", file=sys.stderr)


def _terminal_row(row: ImagePrediction) -> dict[str, Any]:
    best, *others = row.predictions
    record = {"image": row.name, "label": best.label, "probability": f"{best.probability:.4f}"}
    if others:
        record["then"] = ", ".join(f"{found.label} {found.probability:.4f}" for found in others)
    return record
