"""Flags of `resnet-hub list`, `info` and `check`."""

import argparse


def add_arguments_list(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub list`."""
    parser.add_argument("pattern", nargs="?", default="*", help="only these, such as '*50*' or my_resnext*")
    parser.add_argument("--pretrained", action="store_true", help="list published weights instead of models")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_arguments_info(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub info`."""
    parser.add_argument("model", help="a model, with or without a tag: my_resnet50, my_resnet50.a1_in1k")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_arguments_check(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub check`."""
    parser.add_argument("model", help="the variant to check, such as my_resnet50 or one of your own")
    parser.add_argument(
        "--import",
        dest="module",
        metavar="MODULE",
        help="import this first: the module that registers your variant",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
