"""Image files of a folder: found by their endings, with links followed, hidden files left alone."""

import os
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset(
    {
        *(
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".mpo",
            ".png",
            ".apng",
            ".gif",
            ".webp",
            ".avif",
            ".heic",
            ".heif",
        ),
        *(".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".ico"),
    }
)
"""Endings by which the images of a folder are found; a file that is named itself may have any."""


def images_below(folder: Path) -> list[str]:
    """Paths of the images in a folder and in those below it, sorted; what begins with a dot is left out."""
    return sorted(_files(str(folder), seen=set()))


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(True for _ in _files(str(folder), seen=set()))


def is_image_file(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  of a name


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too, sorted; what begins with a dot is left out."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: str, seen: set[str]) -> Iterator[str]:
    place = os.path.realpath(folder)
    if place in seen:  # links that lead in a circle
        return
    seen.add(place)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, seen)
            elif is_image_file(entry.name) and entry.is_file():
                yield entry.path
