"""`resnet-hub push`, `download` and `card`: a model folder and the Hub."""

import argparse
import shutil
import sys
from pathlib import Path

from resnet_hub.cards.family import variant_card
from resnet_hub.downloads.download import Downloaded, download_files
from resnet_hub.errors import HubError, nearest
from resnet_hub.files import atomic_folder
from resnet_hub.hub import (
    current_card,
    may_be_public,
    push_folder,
    refresh_card,
)
from resnet_hub.models.my_resnet import list_models
from resnet_hub.models.names import (
    RegistryName,
    fetch_weights,
    local_folder,
    refuse_revision,
    registry_name,
)
from resnet_hub.terminal import print_document, say


def run_push(arguments: argparse.Namespace) -> int:
    """Publish, read back, and print the address with the commit.

    Raises HubError for a new public repository that nobody has agreed to.
    """
    is_settled = arguments.private or arguments.yes or local_folder(arguments.folder) is None
    ask = input if sys.stdin is not None and sys.stdin.isatty() else lambda _: "no"
    if not is_settled and not may_be_public(arguments.repo_id, ask=ask):
        raise HubError(
            f"{arguments.repo_id} would be a new, public repository, so nothing was published. Add "
            "--private, or --yes if everybody may see it."
        )
    record = push_folder(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        tag=arguments.tag,
        message=arguments.message,
    )
    say(f"Published and read back: {record.url}")
    if record.pull_request:
        say(f"Pull request: {record.pull_request}")
    say(f"Load it: resnet_hub.load({record.repo_id!r}, revision={record.commit!r})")
    return 0


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch all files but pickles into the cache, each checked, and print the folder they are in."""
    name = registry_name(arguments.source)
    if name is None:
        found = download_files(arguments.source, revision=arguments.revision)
    else:
        found = _published_weights(name, revision=arguments.revision)
    if arguments.output is not None:
        _copy(found, arguments.output)
    say(arguments.output or found.folder)
    return 0


def _published_weights(name: RegistryName, *, revision: str | None) -> Downloaded:
    refuse_revision(name, revision=revision)
    file = fetch_weights(name)
    if file is None:
        raise HubError(f"{name.text} has no weights on the Hub. `resnet-hub list --pretrained` has.")
    return Downloaded(folder=file.parent, names=(file.name,))


def _copy(found: Downloaded, folder: Path) -> None:
    """Copy the files that were checked and no others: the cache may hold pickles of other programs there."""
    with atomic_folder(folder) as scratch:
        for name in found.names:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.folder / name, scratch / name)


def run_card(arguments: argparse.Namespace) -> int:
    """Print the card of a folder, as its files have it now and with your edits, or of a variant."""
    folder = local_folder(arguments.source)
    if folder is None:
        return _print_variant_card(arguments)
    if arguments.write:
        say(refresh_card(folder, repo_id=arguments.repo_id, license_id=arguments.license))
    else:
        print_document(current_card(folder, repo_id=arguments.repo_id, license_id=arguments.license))
    return 0


def _print_variant_card(arguments: argparse.Namespace) -> int:
    name = arguments.source
    if name not in (known := list_models()):
        raise HubError(f"{name!r} is no folder and no variant of the family; {nearest(name, known)}")
    if arguments.write or arguments.repo_id is not None or arguments.license is not None:
        raise HubError(
            f"--write, --repo_id and --license are for folders, and {name} is a variant, whose card comes "
            f"from the tables. Send it to a file: resnet-hub card {name} > {name}.md"
        )
    print_document(variant_card(name))
    return 0
