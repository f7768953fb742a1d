"""Find the image files of a folder by their endings; follow links, skip hidden files."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from resnet_hub.errors import DataError

SUFFIXES = frozenset((
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""Endings of images in a folder; a file that is named directly may have any."""


def images_below(folder: Path, *, within: Path | None = None) -> list[str]:
    """Paths of the images in a folder and in those below it, sorted; what begins with a dot is left out.

    Links are followed, but not those in the folder that lead up, or to its neighbors `within` a folder of
    several: their images would be found in two places. Raises DataError for what cannot be looked into.
    """
    try:
        return sorted(_files(str(folder), _Walk(folder, within or folder)))
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be looked into: {error.strerror}.") from error


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(True for _ in _files(str(folder), _Walk(folder, folder)))


def is_image_file(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  of a name


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too, sorted; what begins with a dot is left out."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class _Walk:
    """Which folders were entered, and which must not be."""

    def __init__(self, folder: Path, within: Path) -> None:
        self._folder, self._within = folder.resolve(), within.resolve()
        self._entered: set[Path] = set()

    def may_enter(self, folder: str) -> bool:
        """Whether a folder is new, and neither above this one nor among its neighbors."""
        place = Path(folder).resolve()
        is_above = self._folder.is_relative_to(place) and place != self._folder
        is_beside = place.is_relative_to(self._within) and not place.is_relative_to(self._folder)
        if is_above or is_beside or place in self._entered:
            return False
        self._entered.add(place)
        return True


def _files(folder: str, walk: _Walk) -> Iterator[str]:
    if not walk.may_enter(folder):
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)  # which of two links is entered never changes
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _files(entry.path, walk)
        elif is_image_file(entry.name) and entry.is_file():
            yield _known_name(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def _known_name(path: str) -> str:
    """The path; DataError if its bytes are not UTF-8, which no table could hold."""
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise DataError(f"The name of {path!r} is not UTF-8. Rename the file or its folder.")
    return path
