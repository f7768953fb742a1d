"""Archives of images, unpacked once into the cache of `datasets`; nothing leaves the folder made for it."""

import hashlib
import io
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

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
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LOOKED_AT = 1000  # members of a tar file
_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(NotImplementedError, EOFError, OSError),
)


class _Member(NamedTuple):
    name: str
    size: int
    is_link: bool
    is_encrypted: bool
    info: Any


@dataclass(frozen=True, kw_only=True)
class UnpackedArchive:
    """The folder that an archive was unpacked into, and what was left in it."""

    folder: Path
    notes: tuple[str, ...]


def is_tar(path: Path) -> bool:
    """Whether a file of this name is a tar file, compressed or not."""
    return path.name.lower().endswith(_TARS)


def is_to_unpack(path: Path) -> bool:
    """Whether a file is an archive of class folders or tables: a zip file, or a tar file but WebDataset.

    In WebDataset an image has files of the same name beside it: `0001.jpg`, `0001.cls`. Raises DataError
    for a damaged tar file.
    """
    if not is_tar(path):
        return path.suffix.lower() == ".zip"
    try:
        with tarfile.open(path) as opened:
            names = [PurePosixPath(member.name) for member in islice(opened, _LOOKED_AT) if member.isfile()]
    except _ERRORS as error:
        raise _damaged(path, error) from error
    images = {name.parent / name.name.partition(".")[0] for name in names if is_image_file(name.name)}
    others = {name.parent / name.name.partition(".")[0] for name in names if not _is_data(name)}
    return not images & others


def archive_stem(path: Path) -> str:
    """The name of an archive without its ending: `pets` of `pets.tar.gz`."""
    return path.name[: -len(next(filter(path.name.lower().endswith, (*_TARS, path.suffix))))]


def unpack(archive: Path) -> UnpackedArchive:
    """Images and tables of a zip or tar file in a folder of the cache, where a later run finds them.

    Raises DataError for what is damaged, encrypted, far larger than the archive, or names a place outside.
    """
    found = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub_archives" / key / archive_stem(archive)
    try:
        with _opened(archive) as (members, open_member):
            wanted = [member for member in members if _is_wanted(archive, member)]
            if not wanted:
                raise DataError(f"{archive} holds neither images nor tables of them. Name another file.")
            folder.parent.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder.parent}.lock"):  # the processes of a run come here together
                if not folder.is_dir():
                    _check_sizes(archive, wanted, folder.parent.parent)
                    scratch = folder.parent.with_suffix(".part")  # of a process that was killed, perhaps
                    shutil.rmtree(scratch, ignore_errors=True)
                    _write(open_member, wanted, scratch / folder.name)
                    scratch.rename(folder.parent)
    except _ERRORS as error:
        raise _damaged(archive, error) from error
    left = len(members) - len(wanted)
    note = f"{left:,} files of {archive.name} are neither images nor tables, and are not unpacked."
    return UnpackedArchive(folder=folder, notes=(note,) if left else ())


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[_Member], Callable[[_Member], IO[bytes]]]]:
    """The files in an archive, and what opens one of them."""
    if is_tar(archive):
        with tarfile.open(archive) as tar:
            found = [_Member(m.name, m.size, not m.isfile(), False, m) for m in tar if not m.isdir()]
            yield found, lambda member: tar.extractfile(member.info) or io.BytesIO()
        return
    with zipfile.ZipFile(archive) as zipped:
        files = [info for info in zipped.infolist() if not info.is_dir()]
        yield (
            [
                _Member(
                    *(info.filename, info.file_size, stat.S_ISLNK(info.external_attr >> 16)),
                    *(bool(info.flag_bits & _ENCRYPTED), info),
                )
                for info in files
            ],
            lambda member: zipped.open(member.info),
        )


def _damaged(archive: Path, error: Exception) -> DataError:
    reason = str(error).partition("\n")[0].rstrip(":")
    return DataError(f"{archive} cannot be unpacked: {reason}. Repair it, or unpack it yourself.")


def _is_data(path: PurePosixPath) -> bool:
    return is_image_file(path.name) or path.suffix.lower() in TABLE_SUFFIXES


def _is_wanted(archive: Path, member: _Member) -> bool:
    """Whether a member is an image or a table; DataError for one that must not be unpacked."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or not path.parts or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"{archive} holds the file {member.name!r}, a place outside of it. Do not use it.")
    if member.is_encrypted:
        raise DataError(f"{archive} is encrypted. Unpack it yourself, and give the folder.")
    return _is_data(path) and not member.is_link and not any(map(is_junk, path.parts))


def _check_sizes(archive: Path, members: Sequence[_Member], place: Path) -> None:
    total = sum(member.size for member in members)
    allowed = max(_HARMLESS_BYTES, _MOST_FACTOR * archive.stat().st_size)
    if total > allowed or any(member.size > _MOST_FILE_BYTES for member in members):
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


def _write(open_member: Callable[[_Member], IO[bytes]], members: Sequence[_Member], folder: Path) -> None:
    folder.mkdir(parents=True)
    for member in members:
        path = folder.joinpath(*PurePosixPath(member.name.replace("\\", "/")).parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member(member) as packed, path.open("xb") as file:  # two members of one name are refused
            shutil.copyfileobj(packed, file)
