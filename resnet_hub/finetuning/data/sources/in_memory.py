"""A data set in memory: of `datasets`, a pandas DataFrame, or a sequence of images with their labels.

Whoever has the objects in hand is trusted: paths may lead anywhere, from the current folder or from `~`. From
a table with an image column on, everything is as with a data set on the disk.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from datasets.fingerprint import generate_random_fingerprint
from PIL import Image

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import is_image
from resnet_hub.finetuning.data.sources.source import Source
from resnet_hub.finetuning.data.sources.table_files import as_values
from resnet_hub.finetuning.data.sources.tables import (
    PATH_NAMES,
    as_dataset,
    splits_of_rows,
    with_indicated_labels,
)
from resnet_hub.images.decoding import BadImageError, open_image

TITLE = "images in memory"
_KINDS = (
    "a datasets.Dataset or DatasetDict, a pandas DataFrame, a list of (image or path, label), or a mapping "
    "from split to one of these"
)
_STORED = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as `datasets` stores images
_CHUNK = 256  # rows; an array of Arrow holds two gigabytes
_LOOKED_AT = 500  # values of a column, to see whether they are images
_FEWEST_FOUND = 0.5  # share of them that have to be


def open_in_memory(data: Any, config: DataOptions) -> Source:
    """The data set that `data` holds; raises DataError for anything else.

    A mapping has a split under each name. A single table is one split, or several if a column names them.
    """
    if config.streaming:
        raise DataError("A data set in memory is not streamed. Leave out streaming.")
    parts = {str(split): part for split, part in data.items()} if isinstance(data, Mapping) else {"all": data}
    ready = {split: part for split, part in parts.items() if _has_images(part)}
    tables = {split: _read(part, config) for split, part in parts.items() if split not in ready}
    if not tables:
        return Source(name=TITLE, revision=None, splits=ready, folders=_anywhere())
    images = {image for _, image, _ in tables.values()}
    if len(images) > 1:
        raise DataError(f"The splits call their images {' and '.join(sorted(images))}. Use one name.")
    (image,) = images
    rows, indicated, notes = with_indicated_labels([table for table, _, _ in tables.values()], image, config)
    named, more = splits_of_rows(rows[0], "the table", is_split=parts.keys() != {"all"})
    notes += more
    known = next(iter(tables.values()))[2] | indicated | {image: datasets.Image()}
    made = {
        split: as_dataset(found, known, fingerprint=generate_random_fingerprint())
        for split, found in (named or dict(zip(tables, rows, strict=True))).items()
    }
    return Source(
        name=TITLE, revision=None, splits={**ready, **made}, folders=_anywhere(), notes=tuple(notes)
    )


def _anywhere() -> tuple[Path, ...]:
    return (Path(Path.cwd().anchor),)


def _has_images(part: Any) -> bool:
    """Whether it is a data set with an image column, which is taken as it is."""
    if isinstance(part, datasets.IterableDataset):
        raise DataError(
            "An IterableDataset cannot be fine-tuned on. Give its name or folder and streaming=True, or make "
            "it a Dataset: datasets.Dataset.from_list(list(it))."
        )
    return isinstance(part, datasets.Dataset) and any(map(is_image, part.features.values()))


def _read(part: Any, config: DataOptions) -> tuple[pa.Table, str, dict[str, Any]]:
    """The rows with their images as `datasets` stores them, the name of that column, and types of others."""
    columns, known = _columns_of(part)
    if not any(columns.values()):
        raise DataError("The data set has no images.")
    image = _find_image_column(columns, config)
    rows = {
        name: _as_images(values) if name == image else as_values([_plain(value) for value in values])
        for name, values in columns.items()
    }
    return pa.table(rows), image, known


def _columns_of(part: Any) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The values of each column, and the types of columns that declare their classes."""
    if isinstance(part, datasets.Dataset):
        table: Any = part.with_format("arrow")[:]
        classes = {
            name: kind for name, kind in part.features.items() if isinstance(kind, datasets.ClassLabel)
        }
        return {name: table.column(name).to_pylist() for name in table.column_names}, classes
    if isinstance(part, pd.DataFrame):
        return {str(name): part.iloc[:, place].tolist() for place, name in enumerate(part.columns)}, {}
    if isinstance(part, str | bytes) or not (hasattr(part, "__len__") and hasattr(part, "__getitem__")):
        raise DataError(f"{type(part).__name__} is not a kind of data set. Give {_KINDS}.")
    items = [part[number] for number in range(len(part))]  # a Dataset of torch has no end of its own
    for number, item in enumerate(items):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(
                f"Item {number} of the data set is a {type(item).__name__}, not a pair (image or path, "
                f"label). Give {_KINDS}."
            )
    names = getattr(part, "classes", None)  # of torchvision
    is_named = isinstance(names, Sequence) and all(type(item[1]) is int for item in items)
    known = {"label": datasets.ClassLabel(names=[str(name) for name in names])} if names and is_named else {}
    return {"image": [item[0] for item in items], "label": [item[1] for item in items]}, known


def _find_image_column(columns: Mapping[str, Sequence[Any]], config: DataOptions) -> str:
    """The column that is asked for, else the one that holds images or paths of files that are there."""
    asked = config.image_column_name
    if asked is not None:
        if asked not in columns:
            raise DataError(f"image_column_name {asked}: no such column; {nearest(asked, columns)}")
        return asked
    found: list[tuple[tuple[bool, float], str]] = []
    for name, values in columns.items():
        some = [value for value in values[:_LOOKED_AT] if not _is_missing(value)]
        share = sum(map(_may_be_image, some)) / max(1, len(some))
        usual = name.lower() in PATH_NAMES
        if share and (usual or share >= _FEWEST_FOUND):
            found.append(((usual, share), name))
    if not found:
        row = ", ".join(f"{name} {str(values[0])[:80]!r}" for name, values in columns.items())
        raise DataError(
            f"No column holds images or paths of files that are there; the first row has {row}. Paths are "
            f"looked up from {Path.cwd()}; give whole ones, or name the column with image_column_name."
        )
    return max(found, key=lambda entry: entry[0])[1]


def _may_be_image(value: Any) -> bool:
    if isinstance(value, str | Path):
        try:
            return Path(value).expanduser().is_file()
        except (OSError, RuntimeError, ValueError):  # a text that can be no path
            return False
    if isinstance(value, list):  # what `datasets` makes of an array
        return bool(value) and isinstance(value[0], list)
    return isinstance(value, Image.Image | bytes | bytearray | memoryview | Mapping) or np.ndim(value) > 1


def _as_images(values: Sequence[Any]) -> pa.ChunkedArray:
    stored = [_stored(value, place) for place, value in enumerate(values)]
    chunks = [pa.array(stored[start : start + _CHUNK], _STORED) for start in range(0, len(stored), _CHUNK)]
    return pa.chunked_array(chunks, _STORED)


def _stored(value: Any, place: int) -> dict[str, Any] | None:
    """An image as `datasets` stores it: encoded bytes, or the path of a file that has them."""
    if isinstance(value, Mapping):
        value = value["path"] if value.get("bytes") is None else value["bytes"]
    if _is_missing(value):
        return None
    if isinstance(value, str | Path):
        return {"bytes": None, "path": str(Path(value).expanduser().absolute())}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value), "path": None}
    pixels = np.array(value) if isinstance(value, list) else value
    if isinstance(value, list) and pixels.dtype == np.int64 and pixels.min() >= 0 and pixels.max() <= 255:
        pixels = pixels.astype(np.uint8)
    try:
        is_gray = isinstance(pixels, Image.Image) and Image.getmodebase(pixels.mode) == "L"
        is_gray = is_gray or (isinstance(pixels, np.ndarray) and pixels.ndim == 2)
        file = io.BytesIO()
        open_image(pixels, "L" if is_gray else "RGB").save(file, format="PNG", compress_level=1)
    except BadImageError as error:
        raise DataError(f"Image {place} of the data set {error}. Repair it or leave it out.") from error
    return {"bytes": file.getvalue(), "path": None}


def _plain(value: Any) -> Any:
    """A label or other cell as Python's own types: numbers of NumPy, tensors and sets become these."""
    if isinstance(value, set | frozenset | tuple):
        value = list(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if _is_missing(value):
        return None
    return value.tolist() if hasattr(value, "tolist") else value


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
