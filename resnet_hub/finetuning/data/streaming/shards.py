"""The rows of a data set in shards that can be read one by one, in any order, with only a few in memory."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import datasets
import fsspec.core
import numpy as np
import pyarrow.parquet as pq
from datasets.table import cast_array_to_feature
from numpy.typing import NDArray

from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.images.limits import MAX_FILE_BYTES

SHARD_ROWS = 256
"""A shard of a Parquet file is as many of its row groups as hold at least this many rows."""
_BATCH_ROWS = 32  # rows that a reader turns into Python objects at a time
_BUFFER_BYTES = 1 << 20  # of a column of Parquet; without a buffer a whole row group would be in memory
_REQUEST_BYTES = 16 << 20  # the largest part of a file on the Hub that is asked for at once
_GAP_BYTES = 256 << 10  # columns that lie closer together than this are fetched together
_FILES_AT_ONCE = 16  # files on the Hub that are asked for at the same time


class Piece(NamedTuple):
    """Consecutive rows of one shard."""

    shard: int
    start: int
    stop: int
    number: int
    """Of the first row, counted through all splits of the data set."""


class StoredRow(NamedTuple):
    """What the data set holds in a row."""

    number: int
    """Counted through all splits of the data set."""
    image: Mapping[str, Any] | None
    """`bytes`, or the `path` of a file; for `image_column.read_stored`."""
    label: Any
    """In the type of the label column; None where the row has none."""


class Shards(Protocol):
    """Rows of all splits, one after the other, in shards of known sizes."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each shard."""
        ...

    def rows(self, pieces: Iterable[Piece]) -> Iterator[StoredRow]:
        """The rows of these pieces, one after the other; read as they are asked for."""
        ...

    def label_values(self, shards: Iterable[int]) -> Iterator[list[Any]]:
        """The labels in these shards, some at a time, as they are stored; images are not read for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class MappedShards:
    """Rows of ordinary data sets on disk, each a shard: images in files, or in tables of Arrow."""

    images: ImageColumn
    labels: datasets.Dataset
    """A single column, in arrow format."""

    @classmethod
    def of(cls, splits: Mapping[str, datasets.Dataset], images: ImageColumn, label: str) -> "MappedShards":
        """The rows of all splits; those of a split without the label column have none."""
        parts = [
            split.select_columns([label])
            if label in split.column_names
            else datasets.Dataset.from_dict({label: [None] * len(split)})
            for split in splits.values()
        ]
        return cls(images=images, labels=datasets.concatenate_datasets(parts).with_format("arrow"))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each shard: one."""
        return np.ones(len(self.labels), dtype=np.int64)

    def rows(self, pieces: Iterable[Piece]) -> Iterator[StoredRow]:
        """The rows of these pieces; finding a few of them costs as much as finding one."""
        left = iter(pieces)
        while some := list(islice(left, _BATCH_ROWS)):
            numbers = np.array([piece.number for piece in some])
            images = self.images.stored(numbers)
            yield from map(StoredRow, numbers.tolist(), images, self._labels(numbers))

    def label_values(self, shards: Iterable[int]) -> Iterator[list[Any]]:
        """The labels in these shards."""
        left = iter(shards)
        while some := list(islice(left, 64 * _BATCH_ROWS)):
            yield self._labels(np.array(some))

    def _labels(self, numbers: NDArray[np.int64]) -> list[Any]:
        table: Any = self.labels[numbers]
        return table.column(0).to_pylist()


@dataclass(frozen=True, kw_only=True)
class RemoteFileShards:
    """Rows that name image files on the Hub, several of which are fetched at the same time."""

    listed: MappedShards
    root: str
    """Where the addresses of all files begin; others are not fetched."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each shard: one."""
        return self.listed.sizes

    def rows(self, pieces: Iterable[Piece]) -> Iterator[StoredRow]:
        """The rows of these pieces with the bytes of their files."""
        rows = self.listed.rows(pieces)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            waiting = [pool.submit(self._fetched, row) for row in islice(rows, _FILES_AT_ONCE)]
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(self._fetched, row) for row in islice(rows, 1)]

    def label_values(self, shards: Iterable[int]) -> Iterator[list[Any]]:
        """The labels in these shards; the files are not read for it."""
        return self.listed.label_values(shards)

    def _fetched(self, row: StoredRow) -> StoredRow:
        path: Any = row.image["path"] if row.image else None
        if not (path and path.startswith(self.root)):
            return row
        with open_file(path) as file:
            return row._replace(image={"bytes": file.read(MAX_FILE_BYTES + 1), "path": None})


@dataclass(frozen=True, kw_only=True)
class ParquetIndex:
    """The shards of Parquet files, from their footers."""

    files: tuple[str, ...]
    """Paths, or addresses below hf://."""
    split_sizes: Mapping[str, int]
    """Rows of each split."""
    file_of: NDArray[np.int64]
    """Place in `files` of each shard."""
    groups: NDArray[np.int64]
    """First row group of each shard, and the first behind it, (shards, 2)."""
    sizes: NDArray[np.int64]
    """Rows of each shard."""

    @classmethod
    def read(cls, files_of_splits: Mapping[str, Sequence[str]]) -> "ParquetIndex":
        """Read the footers of all files."""
        files = tuple(file for files in files_of_splits.values() for file in files)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            groups_of_files = list(pool.map(_rows_of_groups, files))
        found = [
            (number, first, stop, rows)
            for number, groups in enumerate(groups_of_files)
            for first, stop, rows in _join_small(groups)
        ]
        table = np.array(found, dtype=np.int64).reshape(-1, 4)
        counts = iter([sum(groups) for groups in groups_of_files])
        split_sizes = {name: sum(islice(counts, len(part))) for name, part in files_of_splits.items()}
        return cls(
            files=files, split_sizes=split_sizes, file_of=table[:, 0], groups=table[:, 1:3], sizes=table[:, 3]
        )


@dataclass(frozen=True, kw_only=True)
class ParquetShards:
    """Rows of Parquet files, of which only the two columns that matter are read."""

    index: ParquetIndex
    image: str
    label: str
    label_feature: Any

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows of each shard."""
        return self.index.sizes

    def rows(self, pieces: Iterable[Piece]) -> Iterator[StoredRow]:
        """The rows of these pieces; a whole row group is never in memory."""
        for piece in pieces:
            path = self.index.files[self.index.file_of[piece.shard]]
            groups = list(range(*self.index.groups[piece.shard].tolist()))
            with open_file(path) as file:
                parquet = _parquet(file)
                if isinstance(file, _HubFile):
                    file.will_read(_needed_ranges(parquet.metadata, groups, (self.image, self.label)))
                labels = self._labels(parquet, groups)
                stored = islice(self._images(parquet, groups), piece.start, piece.stop)
                for place, image in enumerate(stored):
                    yield StoredRow(piece.number + place, image, labels[piece.start + place])

    def label_values(self, shards: Iterable[int]) -> Iterator[list[Any]]:
        """The labels in these shards; of several at the same time nothing else is read."""
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            yield from pool.map(self._labels_of, shards)

    def _labels_of(self, shard: int) -> list[Any]:
        with open_file(self.index.files[self.index.file_of[shard]]) as file:
            return self._labels(_parquet(file), list(range(*self.index.groups[shard].tolist())))

    def _labels(self, parquet: pq.ParquetFile, groups: list[int]) -> list[Any]:
        if self.label not in parquet.schema_arrow.names:
            return [None] * sum(parquet.metadata.row_group(group).num_rows for group in groups)
        column = parquet.read_row_groups(groups, columns=[self.label], use_threads=False).column(0)
        return cast_array_to_feature(column.combine_chunks(), self.label_feature).to_pylist()

    def _images(self, parquet: pq.ParquetFile, groups: list[int]) -> Iterator[Any]:
        batches = parquet.iter_batches(
            _BATCH_ROWS, row_groups=groups, columns=[self.image], use_threads=False
        )
        as_stored = datasets.Image(decode=False).cast_storage
        return (image for batch in batches for image in as_stored(batch.column(0)).to_pylist())


class _HubFile(io.RawIOBase):
    """A file on the Hub that asks for exactly the bytes that are needed, in few requests."""

    def __init__(self, address: str) -> None:
        system, path = fsspec.core.url_to_fs(address)
        self._file = system.open(path, "rb", cache_type="none")  # each read is one request
        self._size: int = self._file.size
        self._place = 0
        self._ranges: list[tuple[int, int]] = []
        self._window, self._window_start = b"", 0

    def will_read(self, ranges: list[tuple[int, int]]) -> None:
        """From now on what is asked for inside one of these ranges is fetched with what follows in it."""
        self._ranges = ranges

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read from anywhere: yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        left = self._size - self._place
        size = max(0, left if size is None or size < 0 else min(size, left))
        offset = self._place - self._window_start
        if not 0 <= offset <= offset + size <= len(self._window):
            stop = next((stop for start, stop in self._ranges if start <= self._place < stop), 0)
            self._fetch(max(size, min(stop - self._place, _REQUEST_BYTES)))
            offset = 0
        self._place += size
        return self._window[offset : offset + size]

    def _fetch(self, size: int) -> None:
        self._window = b""  # so that not two of them are in memory
        self._file.seek(self._place)
        self._window, self._window_start = self._file.read(size), self._place
        if len(self._window) != size:
            raise OSError(f"{len(self._window):,} bytes came where {size:,} were asked for")


def is_remote(path: str) -> bool:
    """Whether a path is an address on the Hub."""
    return path.startswith("hf://")


def open_file(path: str) -> Any:
    """The file at a path, or at an address on the Hub, to be read and closed by the caller."""
    return _HubFile(path) if is_remote(path) else open(path, "rb")  # noqa: PTH123  the caller closes


def _parquet(file: Any) -> pq.ParquetFile:
    return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def _rows_of_groups(path: str) -> list[int]:
    with open_file(path) as file:
        metadata = pq.read_metadata(file)
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def _join_small(groups: list[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups of a file, (first, first behind, rows), each of SHARD_ROWS rows or the last."""
    first, rows = 0, 0
    for number, count in enumerate(groups, start=1):
        rows += count
        if rows and (rows >= SHARD_ROWS or number == len(groups)):
            yield first, number, rows
            first, rows = number, 0


def _needed_ranges(
    metadata: pq.FileMetaData, groups: list[int], columns: Sequence[str]
) -> list[tuple[int, int]]:
    """Where in a file the chunks of these columns lie, those close together as one."""
    chunks: list[tuple[int, int]] = []
    for group in groups:
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            chunk = row_group.column(number)
            if chunk.path_in_schema.split(".")[0] in columns:
                places = (chunk.data_page_offset, chunk.dictionary_page_offset)
                start = min(place for place in places if place)
                chunks.append((start, start + chunk.total_compressed_size))
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(chunks):
        if joined and start - joined[-1][1] <= _GAP_BYTES:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((start, stop))
    return joined
