"""`resnet-hub validate`: the score of a trained model on a split."""

import argparse
import os
from dataclasses import asdict
from typing import Any

from resnet_hub.cli.flags import dataset_options
from resnet_hub.cli.tables import print_json, print_rows
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.scoring import (
    ValidationRequest,
    ValidationResult,
    save_result,
    validate,
)
from resnet_hub.results import Score
from resnet_hub.terminal import say


def run_validate(arguments: argparse.Namespace) -> int:
    """Score the model and print a row for each split."""
    result, predictions = validate(_request(arguments))
    if os.environ.get("RANK", "0") != "0":
        return 0
    if arguments.output_dir is not None:
        save_result(arguments.output_dir, result, predictions)
    if arguments.json:
        print_json(asdict(result))
        return 0
    say(_title(result))
    print_rows([_row(name, score) for name, score in result.scores.items()])
    return 0


def _request(arguments: argparse.Namespace) -> ValidationRequest:
    options = dataset_options(arguments, "label_column_name")
    data = DataOptions(max_bad_images=arguments.max_bad_images, **options) if options else None
    return ValidationRequest(
        model=arguments.model,
        data=data,
        split=arguments.split,
        image_size=arguments.image_size,
        crop_fraction=arguments.crop_pct,
        test_time_augmentation=arguments.tta,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )


def _title(result: ValidationResult) -> str:
    mirrored = ", with mirror images" if result.test_time_augmentation == "flip" else ""
    return (
        f"{result.model} on {result.dataset}, {result.image_size} px, "
        f"crop {result.crop_fraction:g}{mirrored}, {result.num_classes} classes"
    )


def _row(name: str, score: Score) -> dict[str, Any]:
    low, high = score.accuracy_interval_95
    row = {
        "split": name,
        "images": score.num_images,
        "accuracy": f"{score.accuracy:.2%}",
        "interval_95": f"{low:.2%} to {high:.2%}",
        "top5_accuracy": f"{score.top5_accuracy:.2%}",
        "macro_f1": f"{score.macro_f1:.4f}",
        "loss": f"{score.loss:.4f}",
    }
    if score.mean_average_precision is not None:
        row["mean_average_precision"] = f"{score.mean_average_precision:.4f}"
    return row
