"""Find the image files of a folder by their endings; follow links, skip hidden files."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_hub.errors import DataError

SUFFIXES = frozenset((
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
))  # fmt: skip
"""Endings of images in a folder; a file that is named directly may have any."""
JUNK_FOLDERS = frozenset((
    "#recycle", "$recycle.bin", "@eadir", "@recycle", "__macosx", "__pycache__", "lost+found",
    "system volume information",
))  # fmt: skip
"""Folders that systems and tools leave behind, in lower case; they hold copies and thumbnails."""


@dataclass(frozen=True, kw_only=True)
class FoundImages:
    """What a folder and those below it hold."""

    paths: list[str]
    """The images, sorted."""
    left_out: list[str]
    """What was passed over, each with the reason: `cat/@eaDir (left by a system or tool)`."""


def find_images_below(folder: Path, *, within: Path | None = None) -> FoundImages:
    """The images in a folder and in those below it; what begins with a dot is left out.

    Links are followed, but not those in the folder that lead up, or to its neighbors `within` a folder of
    several: their images would be found in two places. Raises DataError for what cannot be looked into.
    """
    walk = _Walk(folder, within or folder)
    try:
        return FoundImages(paths=sorted(_files(str(folder), walk)), left_out=walk.left_out)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be looked into: {error.strerror}.") from error


def images_below(folder: Path) -> list[str]:
    """Paths of the images in a folder and in those below it, sorted, as `find_images_below` finds them."""
    return find_images_below(folder).paths


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder or below it."""
    return any(True for _ in _files(str(folder), _Walk(folder, folder)))


def is_image_file(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  of a name


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, linked ones too, sorted; dot folders and junk are left out."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_junk(entry.name))


def is_junk(name: str) -> bool:
    """Whether a folder of this name holds nothing that a person has put there."""
    return name.startswith(".") or name.lower() in JUNK_FOLDERS


def why_left_out(entry: Path) -> str | None:
    """Why something in a folder of folders is passed over; None if it is not, or begins with a dot."""
    if entry.name.startswith("."):
        return None
    if entry.name.lower() in JUNK_FOLDERS:
        return _JUNK
    return _BROKEN if entry.is_symlink() and not _exists(entry) else None


_JUNK, _BROKEN, _UP = (
    "left by a system or tool",
    "a link that leads nowhere",
    "a link to a folder that is read",
)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, RuntimeError):  # a circle of links
        return False


class _Walk:
    """Which folders were entered, which must not be, and what was passed over."""

    def __init__(self, folder: Path, within: Path) -> None:
        self._root, self._folder, self._within = within, folder.resolve(), within.resolve()
        self._entered: set[Path] = set()
        self.left_out: list[str] = []

    def may_enter(self, folder: str) -> bool:
        """Whether a folder is new, and neither above this one nor among its neighbors."""
        place = Path(folder).resolve()
        is_above = self._folder.is_relative_to(place) and place != self._folder
        is_beside = place.is_relative_to(self._within) and not place.is_relative_to(self._folder)
        if is_above or is_beside or place in self._entered:
            self.leave_out(folder, _UP)
            return False
        self._entered.add(place)
        return True

    def leave_out(self, path: str, why: str) -> None:
        """Remember what was passed over."""
        self.left_out.append(f"{os.path.relpath(path, self._root)} ({why})")


def _files(folder: str, walk: _Walk) -> Iterator[str]:
    if not walk.may_enter(folder):
        return
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)  # which of two links is entered never changes
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.name.lower() in JUNK_FOLDERS:
            walk.leave_out(entry.path, _JUNK)
        elif _is_broken(entry):
            walk.leave_out(entry.path, _BROKEN)
        elif entry.is_dir():
            yield from _files(entry.path, walk)
        elif is_image_file(entry.name) and entry.is_file():
            yield known_name(entry.path)


def _is_broken(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to nothing or in a circle; of no other entry a system call is needed."""
    return entry.is_symlink() and not _exists(Path(entry.path))


def known_name(path: str) -> str:
    """The path; DataError if its bytes are not UTF-8, which no table could hold."""
    if any("\ud800" <= letter <= "\udfff" for letter in path):
        raise DataError(f"The name of {path!r} is not UTF-8. Rename the file or its folder.")
    return path
