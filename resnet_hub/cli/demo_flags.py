"""Arguments of `resnet-hub demo`."""

import argparse
from pathlib import Path

LOOPBACK = "127.0.0.1"


def add_arguments_demo(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub demo`."""
    parser.add_argument(
        "model", help="a run's folder, a model folder, owner/name on the Hub, or a name such as my_resnet50"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub repository")
    parser.add_argument(
        "--examples", type=Path, help="folder of images to click on (default: some that a run validated on)"
    )
    parser.add_argument("--host", default=LOOPBACK, help=f"address to listen on (default: {LOOPBACK})")
    parser.add_argument("--port", type=int, help="port to listen on (default: the first free one from 7860)")
    parser.add_argument(
        "--space", type=Path, metavar="FOLDER", help="write a Space of the Hub to a new folder instead"
    )
