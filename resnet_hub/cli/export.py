"""`resnet-hub export`: a model as ONNX and torch.export files, each compared with the model."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from resnet_hub.cli.export_images import Pictures, find_pictures
from resnet_hub.cli.tables import print_rows
from resnet_hub.errors import ConfigError, ModelError, nearest
from resnet_hub.files import check_new_folder
from resnet_hub.finetuning.machine.cpu import available_cores
from resnet_hub.formats.kinds import KINDS, Kind
from resnet_hub.formats.writing import ExportedFile, ExportReport, ExportRequest, write_formats
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import class_names_of
from resnet_hub.prediction.open_model import open_model


def run_export(arguments: argparse.Namespace) -> int:
    """Write the files, compare each with the model, print the table; 1 if any had to be refused."""
    kinds = _kinds(arguments.formats)
    _check_numbers(arguments)
    check_new_folder(arguments.output_dir, flag="output_dir")
    torch.set_num_threads(arguments.threads or available_cores())
    model = open_model(arguments.model, revision=arguments.revision, pretrained=not arguments.no_pretrained)
    needs_calibration = any(kind.precision == "int8" for kind in kinds)
    pictures = find_pictures(
        arguments.model,
        Preprocessing.of_model(model),
        given=arguments.images,
        at_most=arguments.num_images,
        must_be_real=needs_calibration,
    )
    calibration, compared = (
        (pictures.pixels[0::2], pictures.pixels[1::2]) if needs_calibration else (None, pictures.pixels)
    )
    request = ExportRequest(
        kinds=kinds,
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


def _kinds(names: list[str]) -> tuple[Kind, ...]:
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"--formats does not know {name!r}; {nearest(name, KINDS, shown=len(KINDS))}")
    return tuple(KINDS[name] for name in dict.fromkeys(names))


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, least in (("num_images", 2), ("batch_size", 1), ("threads", 1), ("tolerance", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} {value}: at least {least} is wanted.")
    agreement = arguments.min_agreement
    if agreement is not None and not 0 <= agreement <= 1:
        raise ConfigError(f"--min_agreement {agreement}: it is a share, from 0 to 1.")


def _source(name: str) -> str:
    """What was asked for; of a folder its name alone, since the record travels."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _class_names(model: torch.nn.Module) -> list[str] | None:
    try:
        return class_names_of(model)
    except ModelError:  # a model of others may have none
        return None


def _show(report: ExportReport, pictures: Pictures, arguments: argparse.Namespace) -> None:
    for problem in pictures.unreadable:
        print(f"left out: {problem}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(asdict(report), indent=2, ensure_ascii=False))
    else:
        print_rows([_row(file) for file in report.files], as_json=False, title="exported")
        print(f"Compared on {report.num_images} images ({report.images_from}).")
        speed = f"{report.eager_images_per_second:.1f} images/s"
        print(f"The model itself: {speed}, batches of {report.batch_size}, {report.threads} threads.")
        print(f"Input {report.inputs}; outputs: {', '.join(report.outputs)}.")
    for file in report.refused:
        print(f"resnet-hub: {file.file} is refused and removed: {file.refused}", file=sys.stderr)
    if len(report.refused) < len(report.files):
        print(f"Written: {arguments.output_dir}", file=sys.stderr if arguments.json else sys.stdout)


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
