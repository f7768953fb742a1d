"""Flags of `resnet-hub compare`."""

import argparse
from pathlib import Path


def add_arguments_compare(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub compare`."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help="write a page as well, with curves over each other; of one run its report.html, made again",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
