"""`resnet-hub push`, `download` and `card`: a model folder and the Hub."""

import argparse
import shutil
import sys
from pathlib import Path

from resnet_hub.errors import HubError


def add_arguments_push(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub push`."""
    parser.add_argument("folder", type=Path, help="a run's folder, or a folder that save_folder wrote")
    parser.add_argument("repo_id", help="owner/name on the Hub; a name alone means the owner of your token")
    _flag(parser, "private", "create the repository as a private one")
    parser.add_argument("--revision", help="branch to push to, made if it is not there (default: main)")
    _flag(parser, "create-pr", "open a pull request instead of pushing to the branch")
    parser.add_argument("--tag", help="name for the commit; it must not stand for another one")
    parser.add_argument("--message", help="first line of the commit")
    _flag(parser, "yes", "do not ask before a public repository is made")


def run_push(arguments: argparse.Namespace) -> int:
    """Publish, read back, and print the address with the commit; 2 when the answer to the question is no."""
    from resnet_hub.hub import is_published, push_folder  # noqa: PLC0415  torch only when the verb runs

    asks = sys.stdin.isatty() and not (arguments.private or arguments.yes or arguments.create_pr)
    if asks and not is_published(arguments.repo_id) and not _confirmed(arguments.repo_id):
        print("Nothing was published. With --private only you can see it.")
        return 2
    record = push_folder(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        tag=arguments.tag,
        message=arguments.message,
    )
    print(f"Published and read back: {record.url}")
    if record.pull_request:
        print(f"Pull request: {record.pull_request}")
    print(f"Load it: resnet_hub.load({record.repo_id!r}, revision={record.commit!r})")
    return 0


def add_arguments_download(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub download`."""
    parser.add_argument(
        "source", help="owner/name on the Hub, or a model with published weights: my_resnet50"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
    parser.add_argument("--output", type=Path, help="copy the files into this new folder as well")


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch all files but pickles into the cache, each checked, and print the folder they are in."""
    import timm  # noqa: PLC0415

    import resnet_hub  # noqa: F401, PLC0415  registers the family
    from resnet_hub.hub import download, ensure_pretrained_weights  # noqa: PLC0415

    if arguments.output is not None and arguments.output.exists():
        raise HubError(f"{arguments.output} exists already and is not written over. Name another folder.")
    if "/" not in arguments.source and timm.is_model(arguments.source.partition(".")[0]):
        file = ensure_pretrained_weights(arguments.source)
        if file is None:
            raise HubError(
                f"{arguments.source} has no weights on the Hub. `resnet-hub list --pretrained` has."
            )
        folder = file.parent
    else:
        folder = download(arguments.source, revision=arguments.revision)
    if arguments.output is not None:
        shutil.copytree(folder, arguments.output)
        folder = arguments.output
    print(folder)
    return 0


def add_arguments_card(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub card`."""
    parser.add_argument("folder", type=Path, help="a run's folder, or a folder that save_folder wrote")
    parser.add_argument("--repo-id", "--repo_id", help="write the usage code for this repository of the Hub")
    _flag(parser, "write", "write it to the folder's README.md, instead of printing it; your edits are kept")


def run_card(arguments: argparse.Namespace) -> int:
    """Print the model card as the folder's files have it now, with the edits of its README.md."""
    from resnet_hub.hub import current_card, local_folder, refresh_card  # noqa: PLC0415

    folder = local_folder(arguments.folder)
    if folder is None:
        raise HubError(f"There is no folder {arguments.folder}.")
    if arguments.write:
        print(refresh_card(folder, repo_id=arguments.repo_id))
    else:
        print(current_card(folder, repo_id=arguments.repo_id), end="")
    return 0


def _flag(parser: argparse.ArgumentParser, name: str, help_text: str) -> None:
    """A switch that may be written with dashes or with underscores."""
    spellings = dict.fromkeys((f"--{name}", f"--{name.replace('-', '_')}"))
    parser.add_argument(*spellings, action="store_true", help=help_text)


def _confirmed(repo_id: str) -> bool:
    answer = input(f"{repo_id} is not on the Hub yet and will be public. Publish it? [y/N] ")
    return answer.strip().lower() in ("y", "yes")
