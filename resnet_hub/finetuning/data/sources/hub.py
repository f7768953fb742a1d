"""A data set of the Hub, at one commit."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import datasets
import datasets.config
from filelock import FileLock
from huggingface_hub import DatasetInfo, HfApi, constants, snapshot_download
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
from resnet_hub.finetuning.data.sources.local import open_folder
from resnet_hub.finetuning.data.sources.source import (
    Source,
    load_splits,
    no_such_dataset,
    note_on_guesses,
    reading,
    unreachable,
)
from resnet_hub.images.folders import is_image_file

_TEXT_TABLES = (".csv", ".tsv", ".jsonl")  # whose types `datasets` guesses, or which it does not read
_HUB_TIMEOUT = 10  # seconds to wait for the Hub's first answer; the Hub's own limit for a file's header


def open_hub(name: str, config: DataOptions, *, needs_labels: bool = True) -> Source:
    """A data set of the Hub at one commit. It is looked up first: a Hub out of reach shows in seconds.

    Image files with tables are copied as they are and read as a folder on the disk is, so that a text in a
    table stays a text; all others are read by `datasets`.
    """
    revision, place = config.dataset_revision, _copies_of(name)
    if constants.is_offline_mode():
        copies = [copy for copy in place.glob(f"{revision or ''}*") if copy.is_dir() and not copy.suffix]
        folder = max(copies, key=lambda copy: copy.stat().st_mtime, default=None)
    else:
        info = _look_up(name, revision)
        revision, folder = info.sha, None
        if config.dataset_config_name is None and _has_images_and_tables(info):
            folder = _copy(name, place / str(revision))
    if folder is not None:
        source = open_folder(folder, config, needs_labels=needs_labels)
        return replace(source, name=name, revision=folder.name)
    found = load_splits(
        name, lambda: datasets.load_dataset(name, config.dataset_config_name, revision=revision), is_hub=True
    )
    cached_files = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    folders = (cached_files.resolve(), Path(datasets.config.DOWNLOADED_DATASETS_PATH).resolve())
    notes = note_on_guesses(next(iter(found.values())))
    return Source(name=name, revision=revision, splits=found, folders=folders, notes=notes)


def hub_commit(name: str, revision: str | None) -> str:
    """The commit of a revision, the newest for None; DataError for what is not there or out of reach."""
    commit = _look_up(name, revision).sha
    assert commit is not None, f"the Hub gave no commit for {name}"
    return commit


def _copies_of(name: str) -> Path:
    """The folder of the copies of a data set, one for each commit that was used."""
    return Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub_copies" / name.replace("/", "--")


def _has_images_and_tables(info: DatasetInfo) -> bool:
    """Whether a data set is image files and tables, and its card does not say how to read them."""
    if info.card_data and info.card_data.get("configs"):
        return False
    files = [PurePosixPath(file.rfilename) for file in info.siblings or ()]
    tables = any(file.suffix.lower() in _TEXT_TABLES for file in files)
    return tables and any(is_image_file(file.name) for file in files)


def _copy(name: str, folder: Path) -> Path:
    """The folder with a copy of all files at the commit that it is named after."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_suffix(".part")
    with FileLock(f"{folder}.lock"), reading(name, is_hub=True):  # the processes of a run come here together
        if not folder.is_dir():
            snapshot_download(name, repo_type="dataset", revision=folder.name, local_dir=part)
            part.rename(folder)
    return folder


def _look_up(name: str, revision: str | None) -> DatasetInfo:
    note_recipient(constants.ENDPOINT)
    try:
        return HfApi().dataset_info(name, revision=revision, timeout=_HUB_TIMEOUT)
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
