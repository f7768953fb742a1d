"""`resnet-hub inspect`: training labels that may be wrong, found without training."""

import argparse
from dataclasses import asdict
from typing import Any

from resnet_hub.cli.tables import print_json, print_rows
from resnet_hub.files import write_atomically
from resnet_hub.finetuning import FinetuneConfig, inspect_labels
from resnet_hub.finetuning.training.suspects import LabelInspection, Suspect, as_csv
from resnet_hub.terminal import say

_DATASET = ("dataset_config_name", "dataset_revision", "image_column_name", "label_column_name")


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print the labels that look wrong, the strongest first, and write all of them if asked."""
    inspection = inspect_labels(
        FinetuneConfig(
            dataset_name=arguments.dataset,
            model_name_or_path=arguments.model,
            train_split=arguments.split,
            image_size=arguments.image_size,
            validation_fraction=0.0,
            test_fraction=0.0,
            **{name: getattr(arguments, name) for name in _DATASET},
        )
    )
    if arguments.output is not None:
        write_atomically(arguments.output, as_csv(inspection.suspects, inspection.split))
    if arguments.json:
        print_json([_record(suspect, inspection) for suspect in inspection.suspects])
        return 0
    found, looked_at = len(inspection.suspects), len(inspection.split)
    say(f"{found:,} of {looked_at:,} images have a label that may be wrong")
    if found:
        print_rows([_row(suspect, inspection) for suspect in inspection.suspects[: arguments.at_most]])
    return 0


def _record(suspect: Suspect, inspection: LabelInspection) -> dict[str, Any]:
    row = int(inspection.split.rows[suspect.place])
    values = {name: value for name, value in asdict(suspect).items() if name != "place"}
    return {"row": row, "file": inspection.split.images.file_of(row)} | values


def _row(suspect: Suspect, inspection: LabelInspection) -> dict[str, Any]:
    record = _record(suspect, inspection)
    return {
        "image": record["file"] or f"row {record['row']}",
        "label": suspect.label,
        "probability": f"{suspect.probability_of_label:.4f}",
        "suggested": suspect.suggested,
        "its probability": f"{suspect.probability_of_suggestion:.4f}",
    }
