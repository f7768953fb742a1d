"""Images whose class is the folder that they are in, on the first level below a split."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import datasets
from datasets import ClassLabel, DatasetInfo, Features, Image
from datasets.data_files import SPLIT_KEYWORDS

from resnet_hub.errors import DataError
from resnet_hub.images.folders import SUFFIXES, folders_in, has_images, images_below, is_image_file

logger = logging.getLogger(__name__)

CLASS_FOLDERS = "class folders"
"""What labels are made from here."""

# Where one of these is found `datasets` decides what is in the folder.
_STORES = frozenset({".parquet", ".arrow", ".tar", ".zip"})
_TABLES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
_SHOWN = 3
_SPLITS = {keyword: str(split) for split, keywords in SPLIT_KEYWORDS.items() for keyword in keywords}


def split_folders(folder: Path) -> dict[str, Path] | None:
    """Split -> folder of class folders, if nothing but such folders is in it; else None."""
    inside = folders_in(folder)
    if has_table(folder) or any(entry.suffix.lower() in _STORES for entry in folder.iterdir()):
        return None
    named = {_SPLITS[place.name.lower()]: place for place in inside if place.name.lower() in _SPLITS}
    if "train" in named and len(named) == len(inside):
        return named if all(map(_has_class_folders, inside)) else None
    return {"train": folder} if not named and _has_class_folders(folder) else None


def has_table(folder: Path) -> bool:
    """Whether the folder, or one in it, has a table of its images (metadata.csv and the like)."""
    places = (folder, *folders_in(folder))
    return any((place / name).is_file() for place in places for name in _TABLES)


def read_class_folders(folders: Mapping[str, Path]) -> dict[str, datasets.Dataset]:
    """The images of each split with the class that they lie in; the classes are those of all splits.

    A class is a folder on the first level, whatever folders there are in it. Raises DataError if there is
    none, or if train has one only.
    """
    found = {split: _images_of_classes(folder) for split, folder in folders.items()}
    train, names = found["train"], sorted({name for classes in found.values() for name in classes})
    if len(train) == 1:
        raise DataError(
            f"{folders['train']} has images of one class only, {next(iter(train))!r}; nothing can be learnt "
            f"from it. Each class is a folder of its own."
        )
    return {split: _table(folders[split], classes, names) for split, classes in found.items()}


def _has_class_folders(folder: Path) -> bool:
    """Whether at least two of the folders in it have images."""
    return sum(map(has_images, folders_in(folder))) > 1


def _images_of_classes(folder: Path) -> dict[str, list[str]]:
    inside = folders_in(folder)
    names = {place.name.lower() for place in inside}
    if names and names <= _SPLITS.keys():
        raise DataError(
            f"{folder} holds the splits {', '.join(place.name for place in inside)} and not classes. Use "
            f"--dataset_name {folder}, or name the folder of one split."
        )
    _refuse_one_folder_as_two(folder, inside)
    images = {place.name: images_below(place, within=folder) for place in inside}
    beside = sorted(entry.name for entry in folder.iterdir() if is_image_file(entry.name))
    empty = [name for name, files in images.items() if not files]
    if len(empty) == len(images):
        raise DataError(
            f"{folder} has no class folders with images in them. Each class is a folder; images are found by "
            f"their endings ({', '.join(sorted(SUFFIXES))})."
        )
    if beside:
        logger.warning(
            "%d images lie beside the class folders of %s and belong to no class, among them %s.",
            len(beside),
            folder,
            ", ".join(beside[:_SHOWN]),
        )
    if empty:
        logger.warning("No image is in %s of %s: no class.", ", ".join(empty[:_SHOWN]), folder)
    return {name: files for name, files in images.items() if files}


def _refuse_one_folder_as_two(folder: Path, inside: list[Path]) -> None:
    known: dict[Path, str] = {}
    for place in inside:
        other = known.setdefault(place.resolve(), place.name)
        if other != place.name:
            raise DataError(
                f"{other} and {place.name} in {folder} are one folder by two names, and its images would be "
                f"of two classes. Remove the link."
            )


def _table(folder: Path, classes: Mapping[str, list[str]], names: list[str]) -> datasets.Dataset:
    paths = [path for name in names for path in classes.get(name, [])]
    labels = [number for number, name in enumerate(names) for _ in classes.get(name, [])]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    plain = datasets.Dataset.from_dict({"image": paths, "label": labels})
    return datasets.Dataset(
        plain.cast(features).data,
        info=DatasetInfo(features=features),
        fingerprint=_fingerprint(folder, paths),
    )


def _fingerprint(folder: Path, paths: list[str]) -> str:
    """Changes with the place, the names, the sizes and the times of the files."""
    digest = hashlib.sha256(str(folder).encode())
    for path in paths:
        found = os.stat(path)  # noqa: PTH116  a third of the time of Path.stat, for each of many files
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
