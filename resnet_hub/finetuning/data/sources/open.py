"""Where images come from: the Hub, a folder, a saved data set or the embedded digits, through `datasets`."""

import glob
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.data_files import get_data_patterns
from huggingface_hub import constants
from PIL import Image

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.sources.class_folders import (
    CLASS_FOLDERS,
    has_table,
    read_class_folders,
    split_folders,
)
from resnet_hub.finetuning.data.sources.hub import hub_commit, open_hub
from resnet_hub.finetuning.data.sources.source import DIGITS, Source, load_splits, reading


def open_source(config: DataOptions) -> Source:
    """The data set that `config` names; raises DataError, with the nearest right name, if there is none."""
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()  # in a log file they are a mess
    if config.train_dir is not None:
        return _open_class_folders(config)
    if config.dataset_name is None:
        raise DataError(
            "No data set is given. Use --dataset_name with a Hub id, a folder or `digits`, or --train_dir."
        )
    if config.dataset_name == DIGITS:
        return Source(name=DIGITS, revision=None, splits={"all": make_digits()}, folders=())
    folder = Path(config.dataset_name).expanduser()
    if folder.is_dir():
        return _open_folder(config.dataset_name, folder, config)
    if folder.exists() or _looks_like_a_path(config.dataset_name):
        raise DataError(_no_such_folder("dataset_name", folder))
    return open_hub(config.dataset_name, config)


def title_of(name: str, revision: str | None, config: DataOptions) -> str:
    """What reports and cards call the data set; DataError for another title of one that the Hub names."""
    if config.dataset_title and revision is not None:
        raise DataError(
            f"--dataset_title is for data sets given as folders, and {name} is one of the Hub. Leave it out."
        )
    return config.dataset_title or name


@dataclass(frozen=True, kw_only=True)
class FoundBuilder:
    """What `datasets` would read a data set with, which has not been read yet."""

    name: str
    revision: str | None
    """Commit of the Hub data set."""
    builder: datasets.DatasetBuilder


def find_builder(config: DataOptions) -> FoundBuilder | None:
    """The builder of a data set that `datasets` would copy before use; None for one that is mapped as it is.

    Copied are data sets of the Hub and folders of Parquet; class folders, saved data sets and the digits are
    not. Raises DataError as `open_source` does.
    """
    name = config.dataset_name
    if name is None or name == DIGITS:
        return None
    folder = Path(name).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        with reading(name):
            if _is_saved(folder) or split_folders(folder) is not None:
                return None
            patterns = _split_patterns(folder)
            builder = datasets.load_dataset_builder(
                str(folder), config.dataset_config_name, data_files=patterns
            )
        return FoundBuilder(name=name, revision=None, builder=builder) if builder.name == "parquet" else None
    if folder.exists() or _looks_like_a_path(name):
        raise DataError(_no_such_folder("dataset_name", folder))
    if constants.is_offline_mode():
        raise DataError(
            f"--streaming reads {name} from the Hub in every epoch, and HF_HUB_OFFLINE is set. Unset it, or "
            "leave out --streaming to use what an earlier run left in the cache."
        )
    revision = hub_commit(name, config.dataset_revision)
    with reading(name, is_hub=True):
        builder = datasets.load_dataset_builder(name, config.dataset_config_name, revision=revision)
    return FoundBuilder(name=name, revision=revision, builder=builder)


def make_digits() -> datasets.Dataset:
    """The 1,797 scanned digits of scikit-learn, 8x8 pixels in 16 grey levels, as PNGs with their class.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - takes half a second

    digits: Any = load_digits(as_frame=False)
    pixels = np.rint(digits["images"] * (255 / 16)).astype(np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    rows = {"image": [{"bytes": _png(image), "path": None} for image in pixels], "label": digits["target"]}
    return datasets.Dataset.from_dict(rows, features=features)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _open_class_folders(config: DataOptions) -> Source:
    """--train_dir and its companions: a folder of class folders for each split."""
    given = {"train": config.train_dir, "validation": config.validation_dir, "test": config.test_dir}
    folders = {split: Path(folder).expanduser().resolve() for split, folder in given.items() if folder}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise DataError(_no_such_folder(f"{split}_dir", folder))
    with reading(str(config.train_dir)):
        splits = None if any(map(has_table, folders.values())) else read_class_folders(folders)
    labels_from = CLASS_FOLDERS if splits else None
    if splits is None:
        splits = load_splits(
            str(config.train_dir),
            lambda: datasets.load_dataset(
                "imagefolder",
                data_files={split: f"{glob.escape(str(folder))}/**" for split, folder in folders.items()},
            ),
        )
    train = folders["train"]
    name = train.parent.name if train.name.lower() in ("train", "training") else train.name
    return Source(
        name=name or train.name,
        revision=None,
        splits=splits,
        folders=tuple(folders.values()),
        labels_from=labels_from,
    )


def _open_folder(name: str, folder: Path, config: DataOptions) -> Source:
    """A folder of images, of Parquet, or one that `save_to_disk` wrote."""
    folder = folder.resolve()
    with reading(name):
        places = split_folders(folder)
        splits = None if places is None else read_class_folders(places)
    if splits is not None:
        return Source(
            name=folder.name, revision=None, splits=splits, folders=(folder,), labels_from=CLASS_FOLDERS
        )
    if _is_saved(folder):
        splits = load_splits(name, lambda: datasets.load_from_disk(str(folder)))
    else:
        splits = load_splits(
            name,
            lambda: datasets.load_dataset(
                str(folder), config.dataset_config_name, data_files=_split_patterns(folder)
            ),
        )
    return Source(name=folder.name, revision=None, splits=splits, folders=(folder,))


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json"))


def _split_patterns(folder: Path) -> dict[str, list[str]] | None:
    """Patterns of the files of each split, where the folder's own name looks like a pattern; else None.

    `datasets` finds the splits itself, but takes the folder's name for a part of the pattern.
    """
    escaped = glob.escape(str(folder))
    if escaped == str(folder):
        return None
    found = get_data_patterns(escaped)
    return {str(split): [f"{escaped}/{pattern}" for pattern in patterns] for split, patterns in found.items()}


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.endswith(os.sep) or name.count("/") > 1


def _no_such_folder(option: str, folder: Path) -> str:
    if folder.exists():
        return f"--{option} {folder} is a file; give the folder that holds the images."
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    siblings = [entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    missing = folder.absolute().relative_to(parent).parts[0]
    hint = f" In {parent}: {nearest(missing, siblings)}" if siblings else f" {parent} has no folders."
    return f"--{option} {folder}: there is no such folder.{hint}"
