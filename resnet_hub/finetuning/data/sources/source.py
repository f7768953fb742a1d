"""A data set as it was found, and the errors of whatever reads it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarError
from typing import Any

import datasets
import datasets.config
from datasets import ClassLabel
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError

from resnet_hub.errors import DataError, nearest

DIGITS = "digits"
"""The name of the embedded data set."""
LAYOUTS = (
    "A folder holds a folder of images per class, or images and a table (metadata.csv, labels.csv) that "
    "names them, or Parquet or WebDataset files, or what `save_to_disk` wrote."
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as it was found, before anything is known about its columns."""

    name: str
    revision: str | None
    """Commit of the Hub data set."""
    splits: dict[str, datasets.Dataset]
    folders: tuple[Path, ...]
    """Folders that rows may name files in; a path to anywhere else is refused."""
    labels_from: str | None = None
    """What labels were made from, such as `class folders`; None for a column as it was found."""
    notes: tuple[str, ...] = ()
    """How splits and labels were found, and what was passed over."""


def load_splits(
    name: str, load: Callable[[], datasets.DatasetDict | datasets.Dataset], *, is_hub: bool = False
) -> dict[str, datasets.Dataset]:
    """The splits that `load` returns, by name, with the errors of `datasets` turned into help."""
    with reading(name, is_hub=is_hub):
        found = load()
    if isinstance(found, datasets.Dataset):
        return {str(found.split or "all"): found}
    return {str(split): rows for split, rows in found.items()}


def note_on_guesses(rows: Any) -> tuple[str, ...]:
    """A note for a data set (or its builder) whose types `datasets` has guessed from texts, or none."""
    typed = (ClassLabel, datasets.Image)  # from folders
    guessed = any(not isinstance(kind, typed) for kind in rows.info.features.values())
    note = "Types of columns were guessed by `datasets`: in CSV 001 is read as 1, and NA and None as missing."
    return (note,) if guessed and rows.info.builder_name in ("csv", "imagefolder") else ()


@contextmanager
def reading(name: str, *, is_hub: bool = False) -> Iterator[None]:
    """Inside, the errors of `datasets` become help: DataErrors."""
    try:
        yield
    except DataError:
        raise
    except (HTTPError, ConnectionError) as error:
        raise DataError(unreachable(name, error)) from error
    except DatasetNotFoundError as error:
        raise DataError(no_such_dataset(name)) from error
    except (DatasetsError, TarError, ValueError, OSError, RuntimeError) as error:
        where = "the Hub's data set" if is_hub else "the folder"
        raise DataError(
            f"Cannot read {where} {name} as images: {_first_line(error.__cause__ or error)} {LAYOUTS}"
        ) from error


def no_such_dataset(name: str) -> str:
    """What to say of a name that stands for no data set."""
    folders = [entry.name for entry in Path().iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return (
        f"There is no data set {name!r}: not on the Hub ({constants.ENDPOINT}, or it is private and you are "
        "not logged in: hf auth login), not a folder here, not the embedded one; "
        f"{nearest(name, [DIGITS, *folders])}"
    )


def unreachable(name: str, error: Exception) -> str:
    """What to say when neither the Hub nor the cache gives the data set."""
    similar = (
        f" If you meant the embedded data set: {DIGITS}." if nearest(name, [DIGITS]).startswith("did") else ""
    )
    cache = datasets.config.HF_DATASETS_CACHE
    if constants.is_offline_mode():
        return (
            f"The data set {name} is not in the cache {cache}, and HF_HUB_OFFLINE is set.{similar} Unset it "
            f"to download from {constants.ENDPOINT} (HF_ENDPOINT)."
        )
    return (
        f"The Hub at {constants.ENDPOINT} cannot be reached for the data set {name} "
        f"({type(error).__name__}: {_first_line(error)}).{similar} Check the network, or HF_ENDPOINT if "
        f"you use a mirror. If an earlier run left it in the cache {cache}, set HF_HUB_OFFLINE=1 to use it."
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
