"""Tables of images: a column of paths, and one or several columns that say what is in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, DatasetInfo, Features, Image, List
from datasets.table import table_cast

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import is_label_name
from resnet_hub.finetuning.data.sources.class_folders import fingerprint_of_files
from resnet_hub.finetuning.data.sources.image_index import ImageIndex, Place
from resnet_hub.finetuning.data.sources.layout import is_exactly_a_split, split_of
from resnet_hub.finetuning.data.sources.table_files import is_table, read_table
from resnet_hub.images.folders import folders_in

PATH_NAMES = (
    *("file_name", "filename", "file", "image", "img", "path", "filepath", "filepaths", "file_path"),
    *("image_path", "img_path", "image_name", "img_name", "image_id", "image_file", "id", "name"),
)
_SPLIT_NAMES = ("split", "subset", "partition", "set", "dataset", "data set", "data_set")
_USUAL_TABLES = ("metadata", "labels", "label", "annotations")
_ONES, _ZEROS = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")
_FEWEST_FOUND = 0.5  # share of rows that have to name images for a column to be one of paths
_LOOKED_AT = 500  # rows, to find that column
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """A table of which a column names images."""

    file: Path
    split: str | None
    """By the name of the file, or of the folder that it is in."""
    rows: pa.Table
    paths: str
    """The column that names images."""
    index: ImageIndex

    @property
    def others(self) -> list[str]:
        """The columns that could say what is in the images."""
        return [name for name in self.rows.column_names if name != self.paths]

    def names_labels(self, config: DataOptions) -> bool:
        """Whether a column has a label's name, or is asked for."""
        return _names_labels(self.others, config)

    def has_labels(self, config: DataOptions) -> bool:
        """Whether it is clear which columns hold labels."""
        indicators = find_indicators(self.rows, self.paths, config)
        return self.names_labels(config) or len(self.others) == 1 or bool(indicators)

    def places(self) -> list[Place | None]:
        """Where each row leads; None for one that names nothing."""
        names = self.rows.column(self.paths).to_pylist()
        return [None if name is None else self.index.find(str(name), self.split) for name in names]


def find_image_tables(folder: Path, config: DataOptions) -> list[ImageTable]:
    """The tables in a folder that name images in it; without one, those in its split folders."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and is_table(path)]
    if files:
        index = ImageIndex(folder)
        found = [as_image_table(file, index, config) for file in files]
        if tables := [table for table in found if table is not None]:
            return tables
    found = []
    for place in folders_in(folder):
        split = split_of(place.name)
        for file in sorted(place.iterdir()) if split else ():
            if (
                file.is_file()
                and is_table(file)
                and (table := as_image_table(file, ImageIndex(place), config))
            ):
                found.append(replace(table, split=split))
    return found


def as_image_table(file: Path, index: ImageIndex, config: DataOptions) -> ImageTable | None:
    """The table in a file, if one of its columns names images of the index."""
    rows = read_table(file)
    paths = _find_path_column(rows, index, split_of(file.stem), config)
    if paths is None:
        return None
    if index.find(paths).verdict == "found":
        raise DataError(f"{file} has no header: its first line names the image {paths}. Add one: image,label")
    return ImageTable(file=file, split=split_of(file.stem), rows=rows, paths=paths, index=index)


def choose_tables(tables: Sequence[ImageTable], config: DataOptions) -> list[ImageTable]:
    """The tables to read: one for each split, or the only one with labels; DataError if that is not clear."""
    labeled = [table for table in tables if table.has_labels(config)]
    by_split: dict[str, ImageTable] = {}
    for table in (*labeled, *tables):
        if table.split is not None and (table.split != "train" or table in labeled):
            by_split.setdefault(table.split, table)
    if "train" in by_split:
        return list(by_split.values())
    unnamed = [table for table in labeled if table.split is None]
    usual = [table for table in unnamed if table.file.stem.lower() in _USUAL_TABLES]
    chosen = next((found for found in (unnamed, usual) if len(found) == 1), None)
    if chosen is not None:
        return [*chosen, *by_split.values()]
    candidates = unnamed or list(by_split.values()) or list(tables)
    if len(candidates) == 1:
        return candidates
    raise DataError(
        f"Several tables name images: {_some([table.file.name for table in tables])}; none is called train. "
        f"Name the one to use: --dataset_name {candidates[0].file}"
    )


def read_image_tables(
    tables: Sequence[ImageTable], config: DataOptions
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The images that the tables name, by split, with every column, and what to know of how they were found.

    Columns of zeros and ones become one of labels.
    """
    first = tables[0]
    image = "image" if first.paths == "file_name" and "image" not in first.rows.column_names else first.paths
    places = [table.places() for table in tables]
    rows = [_with_images(table, found, image) for table, found in zip(tables, places, strict=True)]
    features: dict[str, Any] = {image: Image()}
    rows, indicated, notes = with_indicated_labels(rows, image, config)
    features |= indicated
    splits: dict[str, datasets.Dataset] = {}
    for table, part, found in zip(tables, rows, places, strict=True):
        notes += _notes_on_rows(table, found)
        named = {} if table.split else splits_of_rows(part)
        for split, chosen in (named or {table.split or "train": part}).items():
            splits[split] = as_dataset(chosen, features, fingerprint=_stamp(table.file, chosen, image))
            if named:
                notes.append(f"{split}: {len(chosen):,} rows of {table.file.name}, by its column of splits.")
    listed = {place.path for found in places for place in found if place is not None}
    unlisted = {path for table in tables for path in table.index.paths} - listed
    if unlisted:
        notes.append(f"{len(unlisted):,} images are in no row of the table and are left out.")
    return splits, notes


def _find_path_column(
    rows: pa.Table, index: ImageIndex, split: str | None, config: DataOptions
) -> str | None:
    if config.image_column_name in rows.column_names:
        return config.image_column_name
    candidates: list[tuple[tuple[bool, int], str]] = []
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            continue
        cells = [str(cell) for cell in rows.column(name).slice(0, _LOOKED_AT).to_pylist() if cell is not None]
        found = [cell for cell in cells if index.find(cell, split).verdict in ("found", "ambiguous")]
        usual = name.lower() in PATH_NAMES
        if found and (usual or len(found) >= _FEWEST_FOUND * len(cells)):
            candidates.append(((usual, len(set(found))), name))
    return max(candidates, key=lambda candidate: candidate[0])[1] if candidates else None


def _with_images(table: ImageTable, places: Sequence[Place | None], image: str) -> pa.Table:
    """The rows with the places of the images in a column of this name, instead of what names them."""
    column = pa.array([None if place is None else place.path for place in places], pa.string())
    return table.rows.set_column(table.rows.column_names.index(table.paths), image, column)


def _names_labels(columns: Sequence[str], config: DataOptions) -> bool:
    if config.label_column_name is not None:
        return config.label_column_name in columns
    return any(map(is_label_name, columns))


def find_indicators(rows: pa.Table, image: str, config: DataOptions) -> list[str]:
    """The columns, two or more, if all but those of images and splits hold nothing but zeros and ones."""
    others = [name for name in rows.column_names if name != image]
    if _names_labels(others, config):
        return []
    names = [name for name in others if name.lower() not in _SPLIT_NAMES]
    for name in names:
        values = rows.column(name).unique().to_pylist()
        if not {str(value) for value in values} <= {*_ONES, *_ZEROS}:
            return []
    return names if len(names) > 1 else []


def with_indicated_labels(
    parts: Sequence[pa.Table], image: str, config: DataOptions
) -> tuple[list[pa.Table], dict[str, Any], list[str]]:
    """The rows with a column `label` in place of indicators, if there are any; its type; and a note.

    A row has one label if every row has exactly one 1, else a list of labels.
    """
    names = find_indicators(parts[0], image, config)
    if not names or not all(set(names) <= set(part.column_names) for part in parts):
        return list(parts), {}, []
    ones = [
        [
            [number for number, value in enumerate(row) if str(value) in _ONES]
            for row in zip(*(part.column(name).to_pylist() for name in names), strict=True)
        ]
        for part in parts
    ]
    single = all(len(row) == 1 for rows in ones for row in rows)
    feature = ClassLabel(names=names) if single else List(ClassLabel(names=names))
    made = []
    for part, rows in zip(parts, ones, strict=True):
        labels = pa.array([row[0] for row in rows]) if single else pa.array(rows, pa.list_(pa.int64()))
        made.append(part.drop_columns(names).append_column("label", labels))
    note = f"The {len(names)} columns of zeros and ones are the classes: {_some(names)}."
    return made, {"label": feature}, [note]


def splits_of_rows(rows: pa.Table) -> dict[str, pa.Table]:
    """The rows of each split, as a column of splits has it; empty if there is no such column."""
    for name in rows.column_names:
        if name.lower() not in _SPLIT_NAMES:
            continue
        values = rows.column(name).to_pylist()
        found = {value: split_of(str(value)) for value in set(values)}
        if "train" in found.values() and all(value and is_exactly_a_split(str(value)) for value in found):
            splits = dict.fromkeys(sorted(split for split in found.values() if split))
            return {
                split: rows.filter(pa.array([found[value] == split for value in values])) for split in splits
            }
    return {}


def as_dataset(rows: pa.Table, features: Mapping[str, Any], *, fingerprint: str) -> datasets.Dataset:
    """The rows as a data set with these types of columns."""
    types = Features({**Features.from_arrow_schema(rows.schema.remove_metadata()), **features})
    table = table_cast(rows.replace_schema_metadata(None), types.arrow_schema)
    return datasets.Dataset(table, info=DatasetInfo(features=types), fingerprint=fingerprint)


def _stamp(file: Path, rows: pa.Table, image: str) -> str:
    paths = [path for path in rows.column(image).to_pylist() if path and Path(path).is_file()]
    return fingerprint_of_files(file.parent, [str(file), *paths])


def _notes_on_rows(table: ImageTable, places: Sequence[Place | None]) -> list[str]:
    reasons = {
        "missing": "name no image that is there",
        "ambiguous": "fit several images, which differ in folder or extension",
        "outside": f"name a file outside {table.index.folder} (an absolute path, `..` or a link), which "
        "is never read",
    }
    names = table.rows.column(table.paths).to_pylist()
    notes = [f"Images are named by column {table.paths!r} of {table.file.name}."]
    for verdict, text in reasons.items():
        found = [
            str(name) for name, place in zip(names, places, strict=True) if place and place.verdict == verdict
        ]
        if found:
            notes.append(
                f"{len(found):,} of {len(names):,} rows of {table.file.name} {text}: {_some(found)}."
            )
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
