"""Flags that several verbs share: which images of a data set, and how they are computed."""

import argparse


def add_data_set(parser: argparse.ArgumentParser, *, name_help: str, split_help: str) -> None:
    """Flags that name the images of a data set, as in fine-tuning."""
    parser.add_argument("--dataset_name", metavar="NAME", help=name_help)
    parser.add_argument("--dataset_config_name", metavar="NAME", help="configuration of the Hub data set")
    parser.add_argument(
        "--dataset_revision", metavar="NAME", help="branch, tag or commit of the Hub data set"
    )
    parser.add_argument("--split", help=split_help)
    parser.add_argument(
        "--image_column_name", metavar="NAME", help="column with the images; found by its type"
    )


def add_batches(parser: argparse.ArgumentParser) -> None:
    """Flags for how many images are read and computed at once."""
    parser.add_argument(
        "--batch_size", type=int, default=64, metavar="N", help="images computed at once (64)"
    )
    parser.add_argument(
        "--num_workers", type=int, metavar="N", help="processes that read images; from the cores if not given"
    )
