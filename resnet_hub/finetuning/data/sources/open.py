"""Where images come from: the Hub, a folder, a file, or the embedded digits."""

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from huggingface_hub import constants
from PIL import Image

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.sources.hub import hub_commit, open_hub
from resnet_hub.finetuning.data.sources.local import (
    find_parquet_builder,
    no_such_folder,
    open_file,
    open_folder,
    open_given_folders,
)
from resnet_hub.finetuning.data.sources.source import DIGITS, Source, reading


def open_source(config: DataOptions, *, needs_labels: bool = True) -> Source:
    """The data set that `config` names; raises DataError, with the nearest right name, if there is none.

    Without `needs_labels`, images in folders that are neither classes nor splits will do.
    """
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()  # in a log file they are a mess
    if config.train_dir is not None:
        return open_given_folders(config)
    if config.dataset_name is None:
        raise DataError(
            "No data set is given. Use --dataset_name with a Hub id, a folder or `digits`, or --train_dir."
        )
    if config.dataset_name == DIGITS:
        return Source(name=DIGITS, revision=None, splits={"all": make_digits()}, folders=())
    place = Path(config.dataset_name)
    if place.is_dir():
        return open_folder(place, config, needs_labels=needs_labels)
    if place.is_file():
        return open_file(place, config)
    if _looks_like_a_path(config.dataset_name):
        raise DataError(no_such_folder("dataset_name", place))
    return open_hub(config.dataset_name, config, needs_labels=needs_labels)


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
    place = Path(name)
    if place.exists():
        builder = find_parquet_builder(place, config)
        return builder and FoundBuilder(name=name, revision=None, builder=builder)
    if _looks_like_a_path(name):
        raise DataError(no_such_folder("dataset_name", place))
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


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.endswith(os.sep) or name.count("/") > 1
