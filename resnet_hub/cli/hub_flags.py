"""Flags of `resnet-hub push`, `download` and `card`."""

import argparse
from pathlib import Path


def add_arguments_push(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub push`."""
    parser.add_argument("folder", type=Path, help="a run's folder, or a folder that save_folder wrote")
    parser.add_argument("repo_id", help="owner/name on the Hub; a name alone means the owner of your token")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--revision", help="branch to push to, made if it is not there (default: main)")
    parser.add_argument(
        "--create_pr", action="store_true", help="open a pull request instead of pushing to the branch"
    )
    parser.add_argument("--tag", help="name for the commit; it must not stand for another one")
    parser.add_argument("--message", help="first line of the commit")
    parser.add_argument("--yes", action="store_true", help="do not ask before a public repository is made")


def add_arguments_download(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub download`."""
    parser.add_argument(
        "source", help="owner/name on the Hub, or a model with published weights: my_resnet50"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
    parser.add_argument("--output", type=Path, help="copy the files into this new folder as well")


def add_arguments_card(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub card`."""
    parser.add_argument(
        "source", help="a run's folder, a folder that save_folder wrote, or a variant: my_resnet50"
    )
    parser.add_argument("--repo_id", help="write the usage code for this repository of the Hub")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write it to the folder's README.md, instead of printing it; your edits are kept",
    )
