"""Archives of images, unpacked once into the cache of `datasets`; nothing leaves the folder made for it."""

import hashlib
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets.config
from filelock import FileLock

from resnet_hub.errors import DataError
from resnet_hub.finetuning.data.sources.table_files import TABLE_SUFFIXES
from resnet_hub.images.folders import is_image_file, is_junk

_MOST_OF_DISK = 0.9  # of what is free
_MOST_FILE_BYTES = 4 << 30
_MOST_FACTOR = 200  # by which images or tables can have been compressed; what unpacks to more is a bomb
_HARMLESS_BYTES = 1 << 30
_ENCRYPTED = 0x1


@dataclass(frozen=True, kw_only=True)
class UnpackedArchive:
    """The folder that an archive was unpacked into, and what was left in it."""

    folder: Path
    notes: tuple[str, ...]


def unpack(archive: Path) -> UnpackedArchive:
    """Images and tables of a zip file in a folder of the cache, where a later run finds them.

    Raises DataError for what is damaged, encrypted, far larger than the archive, or names a place outside.
    """
    found = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub_archives" / key / archive.stem
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            wanted = [member for member in members if _is_wanted(archive, member)]
            folder.parent.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder.parent}.lock"):  # the processes of a run come here together
                if not folder.is_dir():
                    _check_sizes(archive, wanted, folder.parent.parent)
                    scratch = folder.parent.with_suffix(".part")  # of a process that was killed, perhaps
                    shutil.rmtree(scratch, ignore_errors=True)
                    _write(opened, wanted, scratch / archive.stem)
                    scratch.rename(folder.parent)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, OSError) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}. Repair it, or unpack it yourself."
        ) from error
    left = len(members) - len(wanted)
    note = f"{left:,} files of {archive.name} are neither images nor tables, and are not unpacked."
    return UnpackedArchive(folder=folder, notes=(note,) if left else ())


def _is_wanted(archive: Path, member: zipfile.ZipInfo) -> bool:
    """Whether a member is an image or a table; DataError for one that must not be unpacked."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or not path.parts or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(
            f"{archive} holds the file {member.filename!r}, a place outside of it. Do not use it."
        )
    if member.flag_bits & _ENCRYPTED:
        raise DataError(f"{archive} is encrypted. Unpack it yourself, and give the folder.")
    if stat.S_ISLNK(member.external_attr >> 16) or any(map(is_junk, path.parts)):
        return False
    return is_image_file(path.name) or path.suffix.lower() in TABLE_SUFFIXES


def _check_sizes(archive: Path, members: list[zipfile.ZipInfo], place: Path) -> None:
    total = sum(member.file_size for member in members)
    allowed = max(_HARMLESS_BYTES, _MOST_FACTOR * archive.stat().st_size)
    if total > allowed or any(member.file_size > _MOST_FILE_BYTES for member in members):
        raise DataError(
            f"{archive} would unpack to {total:,} bytes, more than images ever do. If you trust it, "
            "unpack it yourself, and give the folder."
        )
    free = shutil.disk_usage(place).free
    if total > _MOST_OF_DISK * free:
        raise DataError(
            f"{archive} unpacks to {total:,} bytes, and {free:,} are free in {place}. Make room, or set "
            "HF_DATASETS_CACHE to a larger disk."
        )


def _write(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path) -> None:
    folder.mkdir(parents=True)
    for member in members:
        path = folder.joinpath(*PurePosixPath(member.filename.replace("\\", "/")).parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as packed, path.open("xb") as file:  # two members of one name are refused
            shutil.copyfileobj(packed, file)
