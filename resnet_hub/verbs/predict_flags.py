"""Flags of `resnet-hub predict`."""

import argparse
from pathlib import Path


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
    parser.add_argument(
        "--batch_size", type=int, default=64, metavar="N", help="images computed at once (64)"
    )
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that read images; from the cores if not given"
    )
    parser.add_argument("--dataset_name", metavar="NAME", help="images of a data set, as in fine-tuning")
    parser.add_argument("--dataset_config_name", metavar="NAME", help="configuration of the Hub data set")
    parser.add_argument(
        "--dataset_revision", metavar="NAME", help="branch, tag or commit of the Hub data set"
    )
    parser.add_argument("--split", help="split or slice of the data set, test[:100]; all of it if not given")
    parser.add_argument(
        "--image_column_name", metavar="NAME", help="column with the images; found by its type"
    )
