"""What a stream reads from: the Hub, a folder of Parquet, and what is mapped from the disk anyway."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import Columns, find_columns
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.sources import find_builder, note_on_guesses, open_source, reading
from resnet_hub.finetuning.data.streaming.shards import (
    MappedShards,
    ParquetIndex,
    ParquetShards,
    RemoteFileShards,
    Shards,
    is_remote,
    open_file,
)
from resnet_hub.finetuning.data.streaming.table_cache import cache_path, write_once


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """A data set whose rows can be read shard by shard."""

    name: str
    revision: str | None
    """Commit of the Hub data set."""
    features: datasets.Features
    columns: Columns
    split_sizes: Mapping[str, int]
    """Rows of each split."""
    shards: Shards
    """The rows of all splits, one after the other."""
    folders: tuple[Path, ...]
    """Folders that rows may name files in."""
    fingerprint: str
    """Changes with the list of files, their sizes and the commit; what is in the files is not read for it."""
    stamp: str
    """The same, and changes with the place and the times of files on the disk too."""
    notes: tuple[str, ...] = ()
    """How splits and labels were found, and what was passed over."""


def open_stream(config: DataOptions) -> StreamSource:
    """The data set that `config` names, to be streamed; DataError if there is none or it does not stream."""
    found = find_builder(config)
    if found is None:
        return _open_mapped(config)
    kind = found.builder.name
    if kind == "parquet":
        return _open_parquet(found.name, found.revision, found.builder, config)
    if kind == "imagefolder":
        return _open_remote_files(found.name, found.revision, found.builder, config)
    raise DataError(
        f"--streaming reads Parquet and image files, and {found.name} has files for the reader {kind!r} of "
        "`datasets`. The Hub may have converted it: --dataset_revision refs/convert/parquet. Else leave out "
        "--streaming."
    )


def _open_mapped(config: DataOptions) -> StreamSource:
    """Class folders, a saved data set or the digits: `datasets` maps them from the disk as they are."""
    source = open_source(config)
    features = next(iter(source.splits.values())).features
    columns = find_columns(features, config)
    images = ImageColumn.of(source.splits, columns.image, source.folders)
    fingerprint = _digest([(name, split._fingerprint) for name, split in source.splits.items()])
    return StreamSource(
        name=source.name,
        revision=source.revision,
        features=features,
        columns=columns,
        split_sizes={name: len(split) for name, split in source.splits.items()},
        shards=MappedShards.of(source.splits, images, columns.label),
        folders=source.folders,
        fingerprint=fingerprint,
        stamp=fingerprint,
        notes=source.notes,
    )


def _open_parquet(
    name: str, revision: str | None, builder: datasets.DatasetBuilder, config: DataOptions
) -> StreamSource:
    files = _files_of_splits(builder)
    with reading(name, is_hub=revision is not None):
        features = builder.info.features or _features_in(next(iter(files.values()))[0])
        columns = find_columns(features, config)
        index = ParquetIndex.read(files)
    shards = ParquetShards(
        index=index, image=columns.image, label=columns.label, label_feature=features[columns.label]
    )
    known: list[Any] = [(revision, tuple(index.split_sizes.items()), index.sizes.tobytes())]
    known += [
        file if is_remote(file) else (Path(file).name, Path(file).stat().st_size) for file in index.files
    ]
    return StreamSource(
        name=name if revision else Path(name).resolve().name,
        revision=revision,
        features=features,
        columns=columns,
        split_sizes=index.split_sizes,
        shards=shards,
        folders=() if revision else (Path(name).resolve(),),
        fingerprint=_digest(known),
        stamp=_digest([known, [_times(file) for file in index.files]]),
    )


def _open_remote_files(
    name: str, revision: str | None, builder: datasets.DatasetBuilder, config: DataOptions
) -> StreamSource:
    """Image files on the Hub; what is kept on disk is the list of them, with their labels."""
    with reading(name, is_hub=revision is not None):
        streams: Any = builder.as_streaming_dataset()
        features = next(iter(streams.values())).features
        columns = find_columns(features, config)
        listed = {
            split: write_once(
                cache_path("listed", name, revision, config.dataset_config_name, split),
                datasets.Features(dict(features) | {columns.image: datasets.Image(decode=False)}),
                lambda rows=rows: rows.cast_column(columns.image, datasets.Image(decode=False)),
            )
            for split, rows in streams.items()
        }
    images = ImageColumn.of(listed, columns.image, ())
    mapped = MappedShards.of(listed, images, columns.label)
    fingerprint = _digest([(name, revision, config.dataset_config_name)])
    return StreamSource(
        name=name,
        revision=revision,
        features=features,
        columns=columns,
        split_sizes={split: len(rows) for split, rows in listed.items()},
        shards=RemoteFileShards(listed=mapped, root=f"{builder.base_path}/"),
        folders=(),
        fingerprint=fingerprint,
        stamp=fingerprint,
        notes=note_on_guesses(next(iter(streams.values()))),
    )


def _files_of_splits(builder: datasets.DatasetBuilder) -> dict[str, Sequence[str]]:
    assert builder.config.data_files is not None, "a data set of files has files"
    return {str(split): [str(file) for file in files] for split, files in builder.config.data_files.items()}


def _features_in(file: str) -> datasets.Features:
    with open_file(file) as opened:
        return datasets.Features.from_arrow_schema(pq.read_schema(opened))


def _times(file: str) -> tuple[str, int, int] | None:
    if is_remote(file):
        return None  # its address has the commit
    found = Path(file).stat()
    return (str(Path(file).absolute()), found.st_mtime_ns, found.st_ino)


def _digest(values: list[Any]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()
