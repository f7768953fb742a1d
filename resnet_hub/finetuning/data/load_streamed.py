"""A data set whose training images are streamed: everything else about it is as of one that is read whole.

Validation and test are needed whole at each epoch, so their rows are read once and kept in the cache of
`datasets`, and so is a sample of the training images, to fit fc on and to tell what they look like.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import DataError, RunError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.dataset import ImageData, find_bad_images, without_bad
from resnet_hub.finetuning.data.facts import understand_stream, with_notes
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.inspection import Inspector
from resnet_hub.finetuning.data.labels import LabelReader, Labels, declared_names, read_labels
from resnet_hub.finetuning.data.roles import Role, find_roles
from resnet_hub.finetuning.data.sources import title_of
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.data.streaming.order import StreamOrder, pieces_of
from resnet_hub.finetuning.data.streaming.shards import Piece, StoredRow
from resnet_hub.finetuning.data.streaming.sources import StreamSource, open_stream
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.finetuning.data.streaming.table_cache import cache_path, write_once

SAMPLE = "sample of train"
SAMPLE_IMAGES = 10_000
"""Training images that are kept on disk; their features to fit fc on take 80 MB."""
SAMPLE_PARTS = 8
"""Places of the data set that the sample is taken from side by side."""


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Rows that were read once and are on disk now."""

    table: datasets.Dataset
    numbers: NDArray[np.int64]
    """Row of the data set that each of them is, counted through all its splits."""


def load_streamed(config: DataOptions, inspect: Inspector) -> ImageData:
    """Find, understand and check a data set whose training images will be streamed.

    Raises DataError, before anything is written, for whatever cannot be found, understood or trusted; what is
    in the images of the stream shows when it is read.
    """
    source = open_stream(config)
    roles = find_roles(source.split_sizes, config)
    _check_evaluated(roles, config)
    try:
        return _understand(source, roles, config, inspect)
    except RunError as error:  # no run has begun yet
        raise DataError(str(error)) from error


def _understand(
    source: StreamSource,
    roles: Mapping[str, Role],
    config: DataOptions,
    inspect: Inspector,
) -> ImageData:
    pieces = {name: pieces_of(role.rows, source.shards.sizes) for name, role in roles.items()}
    kept = {
        name: _keep(source, partial(_rows, source, pieces[name]), name, pieces[name])
        for name in roles
        if name != "train"
    }
    reader = _label_reader(source, pieces["train"], kept)
    labels = _labels_of_kept(kept, reader)
    stream = TrainStream(
        name="train",
        how=f"{roles['train'].how}, streamed",
        shards=source.shards,
        folders=source.folders,
        labels=reader,
        split_sizes=dict(source.split_sizes),
        order=StreamOrder(pieces=pieces["train"], seed=config.seed, parts=SAMPLE_PARTS, block_rows=1),
    )
    kept[SAMPLE] = _keep(
        source, lambda: stream.first_rows(SAMPLE_IMAGES), f"sample {config.seed}", pieces["train"]
    )
    sample_labels = _labels_of_sample(kept[SAMPLE], stream)
    values = {SAMPLE: sample_labels, **labels.values}
    hows = {name: role.how for name, role in roles.items()} | {
        SAMPLE: f"{len(sample_labels):,} of {stream.how}"
    }
    found: dict[str, Split] = {}
    for name, labelled in values.items():
        images = ImageColumn.of({name: kept[name].table}, source.columns.image, source.folders)
        rows = np.arange(len(labelled))
        found[name] = Split(
            name=name, how=hows[name], labels=labelled, rows=rows, images=images, seen=inspect(images, rows)
        )
    numbers = {name: kept[name].numbers for name in found}
    bad_images = find_bad_images(found, source.split_sizes, config.max_bad_images, numbers=numbers)
    splits = {name: without_bad(split) for name, split in found.items()}
    return ImageData(
        dataset=title_of(source.name, source.revision, config),
        dataset_revision=source.revision,
        class_names=reader.class_names,
        multi_label=reader.multi_label,
        train=stream,
        validation=splits.get("validation"),
        test=splits.get("test"),
        fingerprint=_fingerprint(source, reader, pieces, splits),
        facts=with_notes(understand_stream(source.columns, labels, splits, sample=SAMPLE), source.notes),
        bad_images=tuple(
            replace(image, used_for="train") if image.used_for == SAMPLE else image for image in bad_images
        ),
        sample=splits[SAMPLE],
    )


def _check_evaluated(roles: Mapping[str, Role], config: DataOptions) -> None:
    """Refuse to take validation or test images out of a stream, which could not be stratified."""
    missing = [
        name
        for name in ("validation", "test")
        if name not in roles and getattr(config, f"{name}_fraction") > 0
    ]
    if missing:
        splits = " ".join(f"--{name}_split NAME" for name in missing)
        fractions = " ".join(f"--{name}_fraction 0" for name in missing)
        raise DataError(
            f"The data set has no split for {' and '.join(missing)}, and with --streaming none can be drawn "
            f"from the training images by their labels. Name one ({splits}; a slice will do: --train_split "
            f"'train[5%:]' --{missing[0]}_split 'train[:5%]'), or go without: {fractions}"
        )


def _rows(source: StreamSource, pieces: NDArray[np.int64]) -> Iterator[StoredRow]:
    return source.shards.rows(Piece(*piece) for piece in pieces.tolist())


def _keep(
    source: StreamSource, rows: Callable[[], Iterator[StoredRow]], what: str, pieces: NDArray[np.int64]
) -> _Kept:
    """The rows on disk, read by `rows()` unless an earlier start has kept them."""
    columns = source.columns
    features = {
        "number": datasets.Value("int64"),
        columns.image: datasets.Image(decode=False),
        columns.label: source.features[columns.label],
    }

    def stored() -> Iterator[dict[str, Any]]:
        for row in rows():
            yield {"number": row.number, columns.image: row.image, columns.label: row.label}

    path = cache_path(
        what, SAMPLE_IMAGES, source.stamp, columns, hashlib.sha256(pieces.tobytes()).hexdigest()
    )
    table = write_once(path, datasets.Features(features), stored)
    numbers = np.array(_column(table, "number"), dtype=np.int64)
    return _Kept(table=table.remove_columns("number"), numbers=numbers)


def _column(table: datasets.Dataset, name: str) -> list[Any]:
    values: Any = table.select_columns([name]).with_format("arrow")[:]
    return values.column(0).to_pylist()


def _label_reader(source: StreamSource, pieces: NDArray[np.int64], kept: Mapping[str, _Kept]) -> LabelReader:
    """What makes labels of the training rows; where no classes are declared, their labels are read for it."""
    columns = source.columns
    reader = LabelReader(column=columns.label, feature=source.features[columns.label])
    names = declared_names({"train": source.features}, columns.label)
    if names is None and reader.multi_label:
        raise DataError(
            f"The lists in column {columns.label} do not declare their classes, and a stream does not tell. "
            "Declare them (datasets.List(datasets.ClassLabel(names=...))), or leave out --streaming."
        )
    if names is None:
        found: set[Any] = set()
        for values in source.shards.label_values(np.unique(pieces[:, 0]).tolist()):
            found |= reader.names_in(values)
        for rows in kept.values():
            values = _column(rows.table, columns.label)
            if set(values) - {None, -1}:
                found |= reader.names_in(values)
        names = [str(name) for name in sorted(found)]
    if len(names) < 2:
        raise DataError(
            f"The labels in column {columns.label} are of {', '.join(names) or 'no class'} alone; nothing "
            "can be learnt."
        )
    return replace(reader, class_names=tuple(names))


def _labels_of_kept(kept: Mapping[str, _Kept], reader: LabelReader) -> Labels:
    tables = {name: rows.table for name, rows in kept.items()}
    for table in tables.values():
        reader.check_sets(_column(table, reader.column))
    starts = np.cumsum([0, *(len(table) for table in tables.values())])
    roles = {
        name: Role(rows=np.arange(start, start + len(table)), how=name)
        for (name, table), start in zip(tables.items(), starts, strict=False)
    }
    labels = read_labels(tables, reader.column, roles, reader.class_names, multi_label=reader.multi_label)
    return replace(labels, multi_label=reader.multi_label)


def _labels_of_sample(sample: _Kept, stream: TrainStream) -> NDArray[Any]:
    values = _column(sample.table, stream.labels.column)
    stream.labels.check_sets(values)
    return np.stack(
        [stream.label(number, value) for number, value in zip(sample.numbers.tolist(), values, strict=True)]
    )


def _fingerprint(
    source: StreamSource,
    reader: LabelReader,
    pieces: Mapping[str, NDArray[np.int64]],
    splits: Mapping[str, Split],
) -> str:
    """A digest of the files of the stream, class names, rows of each split, and what is on disk of them."""
    digest = hashlib.sha256(repr((source.fingerprint, reader.class_names, reader.multi_label)).encode())
    for name, rows in pieces.items():
        digest.update(name.encode() + rows.tobytes())
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}".encode())
        digest.update(split.labels.tobytes())
        digest.update(split.seen.digests.tobytes())
    return digest.hexdigest()
