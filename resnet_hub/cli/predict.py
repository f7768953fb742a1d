"""`resnet-hub predict`: images to labels, on the terminal or into a table."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from resnet_hub.cli.tables import print_rows
from resnet_hub.errors import ConfigError, DataError
from resnet_hub.files import check_new_folder
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.load import open_images
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.batches import ImagePrediction, Readable, predict_images
from resnet_hub.prediction.classify import class_names_of
from resnet_hub.prediction.inputs import find_images
from resnet_hub.prediction.open_model import open_model
from resnet_hub.prediction.tables import as_record, check_output, open_table

EachBatch = Callable[[list[str], Tensor], None]


def run_predict(arguments: argparse.Namespace) -> int:
    """Label the images; 1 if not one of them could be read."""
    _check(arguments)
    images = _find(arguments)
    model = open_model(arguments.model)
    temperature = _temperature(arguments, model)
    rows: list[ImagePrediction] = []
    unreadable: list[ImagePrediction] = []
    with _table(arguments, model) as add:
        for row in predict_images(
            model,
            images,
            top_k=arguments.top_k,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            temperature=temperature,
            each_batch=_overlay_writer(arguments.gradcam, model),
        ):
            if row.problem is not None:
                unreadable.append(row)
            elif add is not None:
                add(row)
            else:
                rows.append(row)
    _print(arguments, rows, unreadable, temperature)
    num_readable = len(images) - len(unreadable)
    if arguments.output and num_readable:
        print(f"{num_readable} images in {arguments.output}", file=sys.stderr)
    return 0 if num_readable else 1


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be carried out before anything is loaded."""
    if arguments.output is not None:
        check_output(arguments.output)
        if arguments.json:
            raise ConfigError("Use either --output or --json, not both.")
    if arguments.gradcam is not None:
        check_new_folder(arguments.gradcam, flag="gradcam")
    for name, least in (("top_k", 1), ("batch_size", 1), ("num_workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} is {value}; it has to be {least} or more.")


def _find(arguments: argparse.Namespace) -> Sequence[Readable]:
    if bool(arguments.images) == bool(arguments.dataset_name):
        raise DataError("Name the images: files, folders, patterns or addresses; or a --dataset_name.")
    if arguments.images:
        for option in ("dataset_config_name", "dataset_revision", "split", "image_column_name"):
            if getattr(arguments, option):
                raise ConfigError(f"--{option} goes with --dataset_name, which is not given.")
        return find_images(arguments.images, allow_urls=arguments.allow_urls)
    config = DataOptions(
        dataset_name=arguments.dataset_name,
        dataset_config_name=arguments.dataset_config_name,
        dataset_revision=arguments.dataset_revision,
        image_column_name=arguments.image_column_name,
    )
    return open_images(config, arguments.split)


def _temperature(arguments: argparse.Namespace, model: nn.Module) -> float:
    if arguments.temperature == "auto":
        from resnet_hub.prediction.temperature import temperature_of_run  # noqa: PLC0415  needs scipy

        return temperature_of_run(Path(arguments.model), class_names_of(model))
    try:
        value = float(arguments.temperature)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"--temperature {arguments.temperature}: give a number above 0, or auto.")
    return value


@contextmanager
def _table(
    arguments: argparse.Namespace, model: nn.Module
) -> Iterator[Callable[[ImagePrediction], None] | None]:
    """What takes the rows for the file, if there is to be one."""
    if arguments.output is None:
        yield None
        return
    top_k = min(arguments.top_k, len(class_names_of(model)))
    with open_table(arguments.output, top_k=top_k) as table:
        yield table.add


def _overlay_writer(folder: Path | None, model: nn.Module) -> EachBatch | None:
    """What saves a Grad-CAM picture for each image, under the image's name and its number."""
    if folder is None:
        return None
    from resnet_hub.prediction.gradcam import gradcam_overlays  # noqa: PLC0415  only in the extra `predict`

    preprocessing = Preprocessing.of_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    saved = 0

    def save(names: list[str], pixels: Tensor) -> None:
        nonlocal saved
        overlays: list[Image.Image] = gradcam_overlays(model, pixels, preprocessing)
        for name, overlay in zip(names, overlays, strict=True):
            stem = "".join(
                letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(name).stem
            )
            overlay.save(folder / f"{saved:05d}_{stem[:80]}.png")
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
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    if rows:
        print_rows([_terminal_row(row) for row in rows], as_json=False)
    for row in unreadable:
        print(f"unreadable: {row.name} {row.problem}", file=sys.stderr)


def _terminal_row(row: ImagePrediction) -> dict[str, Any]:
    best, *others = row.predictions
    record = {"image": row.name, "label": best.label, "probability": f"{best.probability:.4f}"}
    if others:
        record["then"] = ", ".join(f"{found.label} {found.probability:.4f}" for found in others)
    return record
