"""Tables of images: a column of paths, and one or several columns that say what is in them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, DatasetInfo, Features, Image, List
from datasets.table import table_cast

from resnet_hub.errors import DataError, some_of
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import is_label_name
from resnet_hub.finetuning.data.sources.class_folders import fingerprint_of_files
from resnet_hub.finetuning.data.sources.image_index import ImageIndex, Place
from resnet_hub.finetuning.data.sources.layout import is_exactly_a_split, split_of
from resnet_hub.finetuning.data.sources.table_files import TABLE_SUFFIXES, is_table, read_table
from resnet_hub.images.folders import folders_in, has_images

PATH_NAMES = (
    *("file_name", "filename", "file", "image", "img", "path", "filepath", "filepaths", "file_path"),
    *("image_path", "img_path", "image_name", "img_name", "image_id", "image_file", "id", "name"),
)
_SPLIT_NAMES = ("split", "subset", "partition", "set", "dataset", "data set", "data_set")
_LIKE_SPLITS = re.compile(
    r"(^|[^a-z])(splits?|subset|partition|folds?|phase|usage)($|[^a-z])|^is_?(train|val|test)"
)
_USUAL_TABLES = ("metadata", "labels", "label", "annotations")
_ONES, _ZEROS = ("1", "1.0", "True", "true"), ("0", "0.0", "False", "false")
_SIGNS = ("1", "-1")
_FEWEST_FOUND = 0.5  # share of rows that have to name images for a column to be one of paths
_LOOKED_AT = 500  # rows, to find that column


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
        could_be = [name for name in self.others if not _could_be_splits(name)]
        indicators = find_indicators(self.rows, self.paths, config)
        return self.names_labels(config) or len(could_be) == 1 or bool(indicators)

    def places(self) -> list[Place | None]:
        """Where each row leads; None for one that names nothing."""
        names = self.rows.column(self.paths).to_pylist()
        find = _finder(self.file, self.index, self.split)
        return [None if name is None else find(str(name)) for name in names]


def find_image_tables(folder: Path, config: DataOptions) -> list[ImageTable]:
    """The tables that name images in a folder: those in it, in its split folders, or in folders of tables.

    A folder of tables has no images. Where all there is lies in one folder, that one is looked into.
    """
    if found := _tables_among(_files_in(folder), folder, config):
        return found
    inside = folders_in(folder)
    for place in inside:
        if split := split_of(place.name):
            tables = _tables_among(_files_in(place), place, config)
            found += [replace(table, split=split) for table in tables]
    if found:
        return found
    without_images = [place for place in inside if not has_images(place)]
    if len(without_images) < len(inside):
        files = [file for place in without_images for file in sorted(place.rglob("*"))]
        found = _tables_among(files, folder, config)
    return found or (find_image_tables(inside[0], config) if len(inside) == 1 else [])


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLE_SUFFIXES)


def _tables_among(files: Sequence[Path], folder: Path, config: DataOptions) -> list[ImageTable]:
    files = [file for file in files if file.is_file() and is_table(file)]
    index = ImageIndex(folder) if files else None
    found = [as_image_table(file, index, config) for file in files if index]
    return [table for table in found if table is not None]


def as_image_table(file: Path, index: ImageIndex, config: DataOptions) -> ImageTable | None:
    """The table in a file, if one of its columns names images of the index."""
    rows = read_table(file)
    split = split_of(file.stem) or (split_of(file.parent.name) if file.parent != index.folder else None)
    find = _finder(file, index, split)
    paths = _find_path_column(rows, find, config)
    if paths is None:
        return None
    if find(paths).verdict == "found":
        raise DataError(f"{file} has no header: its first line names the image {paths}. Add one: image,label")
    return ImageTable(file=file, split=split, rows=rows, paths=paths, index=index)


def _finder(file: Path, index: ImageIndex, split: str | None) -> Callable[[str], Place]:
    """What finds the images that a table of this file names."""
    return partial(index.find, split=split, start=file.parent.relative_to(index.folder).as_posix())


def choose_tables(tables: Sequence[ImageTable], config: DataOptions) -> list[ImageTable]:
    """The tables to read: one for each split, or the only one with labels; DataError if that is not clear."""
    labeled = [table for table in tables if table.has_labels(config)]
    _refuse_two_of_a_split(labeled)
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
        f"Several tables name images: {some_of([table.file.name for table in tables])}; none is called "
        f"train. Name the one to use: --dataset_name {candidates[0].file}"
    )


def _refuse_two_of_a_split(tables: Sequence[ImageTable]) -> None:
    for split in sorted({table.split for table in tables if table.split}):
        files = [table.file for table in tables if table.split == split]
        if len(files) > 1 and not any(is_exactly_a_split(file.stem) for file in files):
            raise DataError(
                f"Several tables are named like {split}: {some_of([file.name for file in files])}. Make one "
                f"table of them, or name the one to use: --dataset_name {files[0]}"
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
        named, more = splits_of_rows(part, table.file.name, is_split=table.split is not None)
        notes += more
        for split, chosen in (named or {table.split or "train": part}).items():
            splits[split] = as_dataset(chosen, features, fingerprint=_stamp(table.file, chosen, image))
    listed = {place.path for found in places for place in found if place is not None}
    unlisted = {path for table in tables for path in table.index.paths} - listed
    if unlisted:
        notes.append(f"{len(unlisted):,} images are in no row of the table and are left out.")
    return splits, notes


def _find_path_column(rows: pa.Table, find: Callable[[str], Place], config: DataOptions) -> str | None:
    if config.image_column_name in rows.column_names:
        return config.image_column_name
    candidates: list[tuple[tuple[bool, int], str]] = []
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            continue
        cells = [str(cell) for cell in rows.column(name).slice(0, _LOOKED_AT).to_pylist() if cell is not None]
        found = [cell for cell in cells if find(cell).verdict in ("found", "ambiguous")]
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
    """The columns, two or more, if all but those of images and splits hold only 0 and 1, or -1 and 1."""
    others = [name for name in rows.column_names if name != image]
    if _names_labels(others, config):
        return []
    names = [name for name in others if not _could_be_splits(name)]
    values = {str(value) for name in names for value in rows.column(name).unique().to_pylist()}
    return names if len(names) > 1 and (values <= {*_ONES, *_ZEROS} or values <= {*_SIGNS}) else []


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
    note = f"The {len(names)} columns of yes and no are the classes: {some_of(names)}."
    return made, {"label": feature}, [note]


def splits_of_rows(
    rows: pa.Table, title: str, *, is_split: bool = False
) -> tuple[dict[str, pa.Table], list[str]]:
    """The rows of each split by a column of splits, if there is one; and notes on all that could be one.

    With `is_split` all rows are of one split, and columns are only noted.
    """
    splits: dict[str, pa.Table] = {}
    notes: list[str] = []
    for name in filter(_could_be_splits, rows.column_names):
        values = rows.column(name).to_pylist()
        found = {value: split_of(str(value)) for value in dict.fromkeys(values)}
        known = "train" in found.values() and all(is_exactly_a_split(str(value)) for value in found)
        if splits or is_split or not known:
            notes.append(
                f"Column {name!r} of {title} ({some_of(list(map(repr, found)))}) is not used: a column of "
                "splits holds train, validation (or val) and test in every row."
            )
            continue
        rest = rows.drop_columns([name])
        for split in sorted({split for split in found.values() if split}):
            splits[split] = rest.filter(pa.array([found[value] == split for value in values]))
            notes.append(f"{split}: {len(splits[split]):,} rows of {title}, by its column {name!r}.")
    return splits, notes


def _could_be_splits(column: str) -> bool:
    return column.lower() in _SPLIT_NAMES or bool(_LIKE_SPLITS.search(column.lower()))


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
                f"{len(found):,} of {len(names):,} rows of {table.file.name} {text}: {some_of(found)}."
            )
    paths = [place.path for place in places if place]
    if len(paths) > len(set(paths)):
        notes.append(
            f"{len(paths) - len(set(paths)):,} of {len(names):,} rows of {table.file.name} name an image "
            "that an earlier row names; it counts as often as it is named."
        )
    return notes
