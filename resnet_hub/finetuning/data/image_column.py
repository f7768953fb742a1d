"""The encoded images of a data set, by row number; nothing but its own files is ever opened."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute
from datasets.table import ConcatenationTable, MemoryMappedTable
from numpy.typing import NDArray
from PIL import Image

from resnet_hub.images.decoding import (
    BadImageError,
    ColorMode,
    DecodableImage,
    EncodedImage,
    Pixels,
    read_header,
)
from resnet_hub.images.limits import read_file

_compute: Any = pyarrow.compute  # its functions are made when it is imported; no type checker knows them

CLOCK_SECONDS = 3.0
"""The coarsest clock of a file system in use: FAT counts in steps of two seconds."""


@dataclass(frozen=True, kw_only=True)
class ImageColumn:
    """The images of all splits of a data set, one after the other, as encoded bytes."""

    table: datasets.Dataset
    """A single column, `{bytes, path}`, in arrow format."""
    folders: tuple[Path, ...]
    """Where rows may name files; a row that names any other file, or an address, is refused.

    What a file or folder in them links to is read: the Hub's cache is made of links, and so are many folders.
    """

    @classmethod
    def of(
        cls, splits: Mapping[str, datasets.Dataset], column: str, folders: tuple[Path, ...]
    ) -> "ImageColumn":
        """The column of all splits; images are left encoded."""
        parts = [
            split.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for split in splits.values()
        ]
        return cls(table=datasets.concatenate_datasets(parts).with_format("arrow"), folders=folders)

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[DecodableImage]:
        """The images in these rows, one after the other, their headers read; raises BadImageError."""
        return map(self.open, self.stored(rows))

    def stored(self, rows: NDArray[np.int64]) -> Iterator[Any]:
        """What the table holds in these rows, one after the other, to be given to `read`."""
        return (value.as_py() for value in self.values(rows))

    def values(self, rows: NDArray[np.int64]) -> pa.ChunkedArray:
        """The same as values of Arrow, of which nothing has been copied."""
        table: Any = self.table[rows]  # finding rows costs as much for one as for a batch
        return table.column(0)

    def stamps(self, rows: NDArray[np.int64]) -> list[str | None]:
        """For each row a text that becomes another one when its image does; None where nothing can tell.

        It is that of the file that holds the image: place, size and times, among them the time of the last
        change, which no program can set back. Files changed a moment ago have none: they could change again
        within the resolution of the clock.
        """
        values = self.values(rows)
        embedded = _compute.is_valid(_compute.struct_field(values, "bytes")).to_pylist()
        paths = _compute.struct_field(values, "path").to_pylist()
        of_table = self._table_stamp if any(embedded) else None
        return [
            (of_table and f"{of_table} {row}") if is_embedded else (path and _file_stamp(path))
            for row, is_embedded, path in zip(rows, embedded, paths, strict=True)
        ]

    @cached_property
    def _table_stamp(self) -> str | None:
        """Of the files of Arrow behind the table; None if there are none, or a part is only in memory."""
        data = self.table.data
        parts = (
            [part for row in data.blocks for part in row] if isinstance(data, ConcatenationTable) else [data]
        )
        stamps = [_file_stamp(file["filename"]) for file in self.table.cache_files]
        if None in stamps or not all(isinstance(part, MemoryMappedTable) for part in parts):
            return None
        return " ".join((self.table._fingerprint, *map(str, stamps)))

    def file_of(self, row: int) -> str | None:
        """The file that the row names; None if the image is in the table."""
        (stored,) = self.stored(np.array([row]))
        if stored is None or stored["bytes"] is not None:
            return None
        return stored["path"]

    def open(self, value: Mapping[str, Any] | None) -> DecodableImage:
        """The image that a row holds or names, its header read; raises BadImageError with the file."""
        with _naming(value):
            return _StoredImage(encoded=read_header(self.read(value)), value=value)

    def read(self, value: Mapping[str, Any] | None) -> bytes:
        """The bytes of the image file that a row holds or names; raises BadImageError."""
        return read_stored(value, self.folders)


@dataclass(frozen=True, kw_only=True)
class _StoredImage:
    """A `DecodableImage` whose errors name the file that it came from."""

    encoded: EncodedImage
    value: Mapping[str, Any] | None

    @property
    def width(self) -> int:
        return self.encoded.width

    @property
    def height(self) -> int:
        return self.encoded.height

    def pixels(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Pixels:
        with _naming(self.value):
            return self.encoded.pixels(mode, at_least=at_least)

    def decode(self, mode: ColorMode = "RGB") -> Image.Image:
        with _naming(self.value):
            return self.encoded.decode(mode)


@contextmanager
def _naming(value: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside, a bad image is one that has changed: every image was looked at before training."""
    try:
        yield
    except BadImageError as error:
        file = (value and value["path"]) or "An image of the data set"
        raise BadImageError(
            f"{file} {error}, although it could be used when the run began. Restore it, and run the same "
            "command again to resume."
        ) from error


def read_stored(value: Mapping[str, Any] | None, folders: tuple[Path, ...]) -> bytes:
    """The bytes of the image that a row holds, or names in one of these folders; raises BadImageError."""
    if value is None or (value["bytes"] is None and not value["path"]):
        raise BadImageError("is missing: None")
    if value["bytes"] is not None:
        return value["bytes"]
    path: str = value["path"]
    if not _is_within(os.path.dirname(path), folders):  # noqa: PTH120  a Path costs as much as a small file
        raise BadImageError(f"is not in the data set but names another place: {path}")
    try:
        return read_file(path)
    except (OSError, ValueError) as error:
        raise BadImageError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _file_stamp(path: str) -> str | None:
    try:
        found = os.stat(path)  # noqa: PTH116  a third of the time of Path.stat, for each of many files
    except (OSError, ValueError):
        return None
    if max(found.st_mtime, found.st_ctime) > time.time() - CLOCK_SECONDS:
        return None
    times = f"{found.st_mtime_ns} {found.st_ctime_ns}"
    return f"{Path(path).absolute()} {found.st_dev} {found.st_ino} {found.st_size} {times}"


@lru_cache(maxsize=4096)  # a folder has many images, and resolving walks the whole path
def _is_within(name: str, folders: tuple[Path, ...]) -> bool:
    """Whether the path is in one of the folders, as it is written or with links in it followed."""
    path = Path(name)
    as_written = [] if ".." in path.parts else [path]
    return any(place.is_relative_to(folder) for place in (*as_written, path.resolve()) for folder in folders)
