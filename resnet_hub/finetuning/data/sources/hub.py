"""A data set of the Hub, at one commit."""

from pathlib import Path

import datasets
import datasets.config
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from resnet_hub.downloads.access import note_recipient
from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.sources.source import Source, load_splits, no_such_dataset, unreachable

_HUB_TIMEOUT = 10  # seconds to wait for the Hub's first answer; the Hub's own limit for a file's header


def open_hub(name: str, config: DataOptions) -> Source:
    """A data set of the Hub at one commit. It is looked up first: a Hub out of reach shows in seconds."""
    revision = config.dataset_revision
    if not constants.is_offline_mode():
        revision = hub_commit(name, revision)
    found = load_splits(
        name, lambda: datasets.load_dataset(name, config.dataset_config_name, revision=revision), is_hub=True
    )
    cached_files = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    folders = (cached_files.resolve(), Path(datasets.config.DOWNLOADED_DATASETS_PATH).resolve())
    return Source(name=name, revision=revision, splits=found, folders=folders)


def hub_commit(name: str, revision: str | None) -> str:
    """The commit of a revision, the newest for None; DataError for what is not there or out of reach."""
    note_recipient(constants.ENDPOINT)
    try:
        commit = HfApi().dataset_info(name, revision=revision, timeout=_HUB_TIMEOUT).sha
    except GatedRepoError as error:
        raise DataError(
            f"The data set {name} is gated: accept its conditions at {constants.ENDPOINT}/datasets/{name}, "
            "then log in with: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(no_such_dataset(name)) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"The data set {name} has no revision {revision!r}. Give a branch, tag or commit to "
            "--dataset_revision, or leave it out for the newest."
        ) from error
    except HFValidationError as error:
        raise DataError(f"{no_such_dataset(name)} ({error})") from error
    except (HTTPError, OSError) as error:
        raise DataError(unreachable(name, error)) from error
    assert commit is not None, f"the Hub gave no commit for {name}"
    return commit
