"""Flags of `resnet-hub validate`."""

import argparse
from pathlib import Path

from resnet_hub.cli.data_flags import add_batches, add_data_set


def add_arguments_validate(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub validate`."""
    parser.add_argument(
        "model",
        help="a run's folder, a model folder, user/repo on the Hub, or a model with weights: my_resnet50",
    )
    add_data_set(
        parser,
        name_help="as in fine-tuning; for a run's folder that run's data if left out",
        split_help="split or slice, validation[:50%%]; validation, else test, or a run's own if left out",
    )
    parser.add_argument(
        "--label_column_name", metavar="NAME", help="column with the labels; found by its type"
    )
    parser.add_argument(
        "--max_bad_images",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="share to leave out at most (0.01)",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="height and width; the model's test size if not given",
    )
    parser.add_argument(
        "--crop_pct",
        type=float,
        metavar="SHARE",
        help="share of the short side that the crop keeps; the model's",
    )
    parser.add_argument(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: mean logits of an image and its mirror image",
    )
    add_batches(parser)
    parser.add_argument(
        "--output_dir",
        type=Path,
        metavar="FOLDER",
        help="write scores.json, predictions.parquet and report.html into a new folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
