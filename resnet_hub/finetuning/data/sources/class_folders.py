"""Images whose class is the folder that they are in, on the first level below a split."""

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
from datasets import ClassLabel, DatasetInfo, Features, Image

from resnet_hub.errors import DataError, some_of
from resnet_hub.finetuning.data.sources.layout import split_of
from resnet_hub.images.folders import (
    SUFFIXES,
    find_images_below,
    folders_in,
    has_images,
    images_below,
    is_image_file,
    is_junk,
    why_left_out,
)

CLASS_FOLDERS = "class folders"
"""What labels are made from here."""
_UNREAD = {
    **dict.fromkeys(
        (".xml", ".txt", ".yaml"), "is not read; a table is CSV, and boxes of a detector are no classes"
    ),
    ".json": "is not read; a table is CSV or JSON lines (.jsonl), and boxes of a detector are no classes",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet; save it as CSV"),
    **dict.fromkeys((".mat", ".npy", ".npz", ".h5", ".pkl"), "is not read; write its labels into a CSV"),
}
_LOOKED_AT = 100_000  # files, for what else there is
_UNLABELED = -1  # as `datasets` writes it


@dataclass(frozen=True, kw_only=True)
class FoundClasses:
    """The images of every class of a split, and what was passed over."""

    images: Mapping[str, list[str]]
    unlabeled: list[str]
    """Images of a split without class folders."""
    notes: list[str]


def read_class_folders(
    folders: Mapping[str, Sequence[Path]],
) -> tuple[dict[str, datasets.Dataset], tuple[str, ...]]:
    """The images of each split with the class that they lie in, and what to know of how they were found.

    A class is a folder on the first level, whatever folders there are in it; the classes are those of all
    folders of all splits. Raises DataError if there is none, or if train has one only.
    """
    found = {
        split: [_images_of_classes(place, split) for place in places] for split, places in folders.items()
    }
    names = sorted({name for parts in found.values() for part in parts for name in part.images})
    of_train = {name for part in found.get("train", []) for name in part.images}
    if len(of_train) == 1:
        raise DataError(
            f"{folders['train'][0]} has images of one class only, {of_train.pop()!r}; nothing can be "
            "learnt from it. Give each class a folder, or each image a row of a table beside them "
            f"(labels.csv: image,label).{hint_on_annotations(folders['train'][0])}"
        )
    notes = dict.fromkeys(note for parts in found.values() for part in parts for note in part.notes)
    splits = {}
    for split, parts in found.items():
        tables = [_table(place, part, names) for place, part in zip(folders[split], parts, strict=True)]
        splits[split] = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
    return splits, tuple(notes)


def read_unlabeled(folder: Path) -> dict[str, datasets.Dataset]:
    """The images below a folder without labels, by split where all of them are in folders of splits."""
    inside = [place for place in folders_in(folder) if has_images(place)]
    splits = {split_of(place.name) or "all": place for place in inside}
    if len(splits) < len(inside) or "all" in splits or not inside:
        splits = {"all": folder}
    features = Features({"image": Image()})
    return {
        split: datasets.Dataset.from_dict({"image": images_below(place)}, features=features)
        for split, place in splits.items()
    }


def _images_of_classes(folder: Path, split: str) -> FoundClasses:
    inside, notes = _class_folders_in(folder)
    found = {place.name: find_images_below(place, within=folder) for place in inside}
    images = {name: below.paths for name, below in found.items() if below.paths}
    if not images:
        unlabeled = [] if split == "train" else images_below(folder)
        if unlabeled:
            return FoundClasses(images={}, unlabeled=unlabeled, notes=notes)
        raise DataError(
            f"{folder} has no class folders with images in them. Each class is a folder; images are found by "
            f"their endings ({', '.join(sorted(SUFFIXES))}).{hint_on_annotations(folder)}"
        )
    empty = [name for name in found if name not in images]
    passed = [*notes, *(entry for below in found.values() for entry in below.left_out)]
    notes = note_on_left_out(folder, passed) + _note_on_images_beside(folder)
    if empty:
        notes.append(f"No image is in {some_of(empty)} of {folder}: no class.")
    return FoundClasses(images=images, unlabeled=[], notes=notes)


def _class_folders_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The class folders, and what is none with the reason: junk, broken links, links to the folder itself."""
    root = folder.resolve()
    inside = folders_in(folder)
    upward = [place for place in inside if root.is_relative_to(place.resolve())]
    left_out = [f"{place.name} (a link to a folder that is read)" for place in upward]
    left_out += [
        f"{entry.name} ({why})" for entry in sorted(folder.iterdir()) if (why := why_left_out(entry))
    ]
    inside = [place for place in inside if place not in upward]
    _refuse_one_folder_as_two(folder, inside)
    return inside, left_out


def _note_on_images_beside(folder: Path) -> list[str]:
    images = [entry.name for entry in sorted(folder.iterdir()) if is_image_file(entry.name)]
    if not images:
        return []
    return [
        f"{len(images)} images lie beside the class folders of {folder} and belong to no class, among them "
        f"{some_of(images)}."
    ]


def note_on_files(folder: Path, read: Collection[str] = ()) -> list[str]:
    """A note that lists the files of a folder which are neither images nor read; empty if there are none."""
    files = [entry.name for entry in sorted(folder.iterdir()) if entry.is_file() and not is_junk(entry.name)]
    unread = [name for name in files if not is_image_file(name) and name not in read]
    return [f"Not read in {folder.name}: {some_of(unread)}."] if unread else []


def hint_on_annotations(folder: Path) -> str:
    """What else could hold labels in a folder and why it is not read, as the end of an error; or nothing."""
    for file in islice(folder.rglob("*"), _LOOKED_AT):
        if (why := _UNREAD.get(file.suffix.lower())) and not is_junk(file.name):
            return f" {file.relative_to(folder)} {why}."
    return ""


def note_on_left_out(folder: Path, entries: Sequence[str]) -> list[str]:
    """A note that lists what was passed over; empty if nothing was."""
    return [f"Left out of {folder.name}: {some_of(entries)}."] if entries else []


def _refuse_one_folder_as_two(folder: Path, inside: list[Path]) -> None:
    links = [place for place in inside if place.is_symlink()]
    places = {place: place.resolve() for place in inside} if links else {}
    for link in links:
        for other, resolved in places.items():
            if other != link and (
                places[link].is_relative_to(resolved) or resolved.is_relative_to(places[link])
            ):
                first, second = sorted((link.name, other.name))
                raise DataError(
                    f"{first} and {second} in {folder} are one folder by two names, and its images would be "
                    f"of two classes. Remove the link."
                )


def _table(folder: Path, found: FoundClasses, names: list[str]) -> datasets.Dataset:
    paths = [path for name in names for path in found.images.get(name, [])]
    labels = [number for number, name in enumerate(names) for _ in found.images.get(name, [])]
    paths, labels = paths + found.unlabeled, labels + [_UNLABELED] * len(found.unlabeled)
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    plain = datasets.Dataset.from_dict({"image": paths, "label": labels})
    return datasets.Dataset(
        plain.cast(features).data,
        info=DatasetInfo(features=features),
        fingerprint=fingerprint_of_files(folder, paths),
    )


def fingerprint_of_files(folder: Path, paths: Iterable[str]) -> str:
    """Changes with the place, the names, the sizes and the times of the files."""
    digest = hashlib.sha256(str(folder).encode())
    for path in paths:
        found = os.stat(path)  # noqa: PTH116  a third of the time of Path.stat, for each of many files
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
