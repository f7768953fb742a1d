"""Flags of `resnet-hub predict`."""

import argparse
from pathlib import Path

from resnet_hub.cli.data_flags import add_batches, add_data_set


def add_arguments_predict(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub predict`."""
    parser.add_argument(
        "model",
        help="a run's folder, a model folder, user/repo on the Hub, or a model with weights: my_resnet50",
    )
    parser.add_argument(
        "images", nargs="*", help="files, folders (with all in them), patterns such as 'photos/**/*.jpg'"
    )
    parser.add_argument("--allow_urls", action="store_true", help="fetch images that are http(s) addresses")
    parser.add_argument("--top_k", type=int, default=5, metavar="N", help="labels for each image (5)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write a .csv, .jsonl or .parquet file that is not there yet",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--temperature",
        metavar="auto|FLOAT",
        default="1",
        help="divide logits by this (1); auto: what calibrates the run's predictions on its validation split",
    )
    parser.add_argument(
        "--gradcam",
        type=Path,
        metavar="FOLDER",
        help="save pictures of where the model looks into a new folder",
    )
    add_batches(parser)
    add_data_set(
        parser,
        name_help="images of a data set, as in fine-tuning",
        split_help="split or slice of the data set, test[:100]; all of it if not given",
    )
