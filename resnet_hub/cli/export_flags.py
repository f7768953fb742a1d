"""Arguments of `resnet-hub export`, without the packages that exporting needs."""

import argparse
from pathlib import Path

from resnet_hub.formats.kinds import KINDS


def add_arguments_export(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub export`."""
    parser.add_argument(
        "model", help="a run's folder, a model folder, owner/name on the Hub, or a name such as my_resnet50"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="new folder for the files")
    parser.add_argument(
        "--formats",
        nargs="+",
        default=["onnx", "pt2"],
        metavar="FORMAT",
        help=f"what to write, of {', '.join(KINDS)} (default: onnx pt2)",
    )
    parser.add_argument(
        "--with_preprocessing",
        action="store_true",
        help="the files take resized uint8 images (batch, height, width, channels) and give probabilities",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=[],
        metavar="PATH",
        help="images, folders or patterns, to compare on (default: a run's validation split, or noise)",
    )
    _number(parser, "num_images", int, 256, "use at most so many images, evenly spaced (default: 256)")
    _number(
        parser, "tolerance", float, None, "accepted deviation of a logit, as a share of the largest logit"
    )
    _number(
        parser, "min_agreement", float, None, "share of images whose most probable class has to be the same"
    )
    _number(parser, "batch_size", int, 16, "images at a time, for comparison and speed (default: 16)")
    _number(parser, "threads", int, None, "threads to run with (default: the cores there are)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument("--no_pretrained", action="store_true", help="random weights, to measure speed")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _number(parser: argparse.ArgumentParser, name: str, kind: type, default: float | None, text: str) -> None:
    parser.add_argument(f"--{name}", type=kind, default=default, help=text)
