"""Data sets on the disk: class folders, tables of images, archives, and what `datasets` reads itself."""

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import datasets
from datasets.data_files import get_data_patterns

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import is_label_name
from resnet_hub.finetuning.data.sources.archives import archive_stem, is_tar, is_to_unpack, unpack
from resnet_hub.finetuning.data.sources.class_folders import (
    CLASS_FOLDERS,
    hint_on_annotations,
    note_on_files,
    note_on_left_out,
    read_class_folders,
    read_unlabeled,
)
from resnet_hub.finetuning.data.sources.image_index import ImageIndex
from resnet_hub.finetuning.data.sources.layout import (
    ClassFolders,
    find_class_folders,
    refuse_splits_as_classes,
    split_of,
)
from resnet_hub.finetuning.data.sources.source import (
    LAYOUTS,
    Source,
    load_splits,
    note_on_guesses,
    reading,
)
from resnet_hub.finetuning.data.sources.table_files import TABLE_SUFFIXES, is_table, read_table
from resnet_hub.finetuning.data.sources.tables import (
    ImageTable,
    as_image_table,
    choose_tables,
    find_image_tables,
    read_image_tables,
)
from resnet_hub.images.folders import folders_in, has_images, is_junk

_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_FILES = ".csv, .tsv, .jsonl, .parquet, .arrow, .zip, .tar and .tar.gz"


@dataclass(frozen=True, kw_only=True)
class _Found:
    splits: dict[str, datasets.Dataset]
    notes: tuple[str, ...]
    labels_from: str | None = None


def open_given_folders(config: DataOptions) -> Source:
    """--train_dir and its companions: a folder of class folders, or of images and a table, for each split."""
    given = {"train": config.train_dir, "validation": config.validation_dir, "test": config.test_dir}
    folders = {split: folder.resolve() for split, folder in given.items() if folder}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise DataError(no_such_folder(f"{split}_dir", folder))
    with reading(str(config.train_dir)):
        for folder in folders.values():
            refuse_splits_as_classes(folder)
        tables = find_image_tables(folders["train"], config)
        classes = ClassFolders(splits={split: [folder] for split, folder in folders.items()})
        if _tables_decide(tables, classes, config):
            found = _read_tables(_table_of_each(folders, config), config)
        else:
            found = _read_classes(classes, tables)
    train = folders["train"]
    return Source(
        name=_title(train.parent, train.name),
        revision=None,
        splits=found.splits,
        folders=tuple(folders.values()),
        labels_from=found.labels_from,
        notes=found.notes,
    )


def open_folder(folder: Path, config: DataOptions, *, needs_labels: bool = True) -> Source:
    """A folder of class folders, of images and tables, of archives, of Parquet, or saved by `datasets`.

    Without `needs_labels`, images are enough where labels cannot be told.
    """
    folder = folder.resolve()
    name = str(folder)
    if _is_saved(folder):
        found = _Found(splits=load_splits(name, lambda: datasets.load_from_disk(name)), notes=())
        return _as_source(folder, found)
    try:
        with reading(name):
            found = _read_images(folder, config)
    except DataError:
        if needs_labels:
            raise
        is_stored = _has_stores(folder) or not has_images(folder)
        found = None if is_stored else _Found(splits=read_unlabeled(folder), notes=())
    if found is None and (archives := _only_archives(folder)):
        return _open_archives(folder, archives, config)
    if found is None:
        load = lambda: datasets.load_dataset(  # noqa: E731
            name, config.dataset_config_name, data_files=_split_patterns(folder)
        )
        splits = load_splits(name, load)
        found = _Found(splits=splits, notes=note_on_guesses(next(iter(splits.values()))))
    return _as_source(folder, found)


def open_file(file: Path, config: DataOptions) -> Source:
    """A table of images, an archive, or a file that `datasets` reads."""
    file = file.resolve()
    kind = ".tar" if is_tar(file) else file.suffix.lower()
    if is_to_unpack(file):
        unpacked = unpack(file)
        source = open_folder(unpacked.folder, config)
        return replace(source, notes=(*unpacked.notes, *source.notes))
    if is_table(file):
        with reading(str(file)):
            index = ImageIndex(file.parent)
            table = as_image_table(file, index, config)
            if table is None:
                raise DataError(_names_no_images(file, index))
            return _as_source(file.parent, _read_tables([table], config), name=file.stem)
    if kind not in _BUILDERS:
        raise DataError(
            f"--dataset_name {file} is a file; give the folder that holds the images, or {_FILES}."
        )
    data_files = {split_of(file.stem) or "train": glob.escape(str(file))}
    splits = load_splits(str(file), lambda: datasets.load_dataset(_BUILDERS[kind], data_files=data_files))
    return _as_source(file.parent, _Found(splits=splits, notes=()), name=file.stem)


def _title(folder: Path, name: str) -> str:
    """The name of a folder or file in `folder`; of one that is named after a split, the folder's."""
    return (folder.name if split_of(name) else "") or name


def find_parquet_builder(place: Path, config: DataOptions) -> datasets.DatasetBuilder | None:
    """What `datasets` reads Parquet files with; None for anything else on the disk."""
    place = place.resolve()
    with reading(str(place)):
        if place.is_file():
            if place.suffix.lower() != ".parquet" or is_table(place):
                return None
            files = {split_of(place.stem) or "train": glob.escape(str(place))}
            return datasets.load_dataset_builder("parquet", data_files=files)
        if _is_saved(place) or not _has_stores(place) or _num_classes(find_class_folders(place)) > 1:
            return None
        builder = datasets.load_dataset_builder(
            str(place), config.dataset_config_name, data_files=_split_patterns(place)
        )
    return builder if builder.name == "parquet" else None


def no_such_folder(option: str, folder: Path) -> str:
    """What to say of a folder that is not there, or is none."""
    if folder.exists():
        return f"--{option} {folder} is a file; give the folder that holds the images."
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    takes_files = option == "dataset_name"
    siblings = [
        entry.name
        for entry in parent.iterdir()
        if not is_junk(entry.name) and (entry.is_dir() or (takes_files and _is_data(entry)))
    ]
    missing = folder.absolute().relative_to(parent).parts[0]
    hint = f" In {parent}: {nearest(missing, siblings)}" if siblings else f" {parent} has no folders."
    return f"--{option} {folder}: there is no such {'file or ' if takes_files else ''}folder.{hint}"


def _is_data(file: Path) -> bool:
    return file.suffix.lower() in {*_BUILDERS, *TABLE_SUFFIXES, ".zip"} or is_tar(file)


def _as_source(folder: Path, found: _Found, *, name: str | None = None) -> Source:
    return Source(
        name=_title(folder, name) if name else _title(folder.parent, folder.name),
        revision=None,
        splits=found.splits,
        folders=(folder,),
        labels_from=found.labels_from,
        notes=found.notes,
    )


def _read_images(folder: Path, config: DataOptions) -> _Found | None:
    """Class folders, or images and tables that name them; None where `datasets` has to look.

    Folders are the classes unless a column of a table has a label's name, or is asked for.
    """
    tables = find_image_tables(folder, config)
    try:
        classes = find_class_folders(folder)
    except DataError:
        if not _tables_decide(tables, None, config):
            raise
        classes = None
    if _tables_decide(tables, classes, config):
        return _read_tables(choose_tables(tables, config), config)
    unused = [file for file in sorted(folder.iterdir()) if is_table(file)]
    if _num_classes(classes) < 2 and unused and has_images(folder):
        raise DataError(_names_no_images(unused[0], ImageIndex(folder)))
    if classes is None or (_num_classes(classes) < 2 and _has_stores(folder)):
        if has_images(folder) and not _has_stores(folder):
            raise DataError(
                f"{folder} holds images and nothing that says what is in them. Here each class is a folder, "
                f"or a table names the images (labels.csv: image,label).{hint_on_annotations(folder)}"
            )
        return None
    return _read_classes(classes, tables)


def _tables_decide(tables: Sequence[ImageTable], classes: ClassFolders | None, config: DataOptions) -> bool:
    """Whether tables and not folders say what is in the images."""
    if not tables:
        return False
    if _num_classes(classes) < 2:
        return True
    assert classes is not None
    if not any(table.names_labels(config) for table in tables):
        return False
    return config.label_column_name is not None or not _say_the_same(tables, classes)


def _say_the_same(tables: Sequence[ImageTable], classes: ClassFolders) -> bool:
    """Whether the labels of all tables are the folders that the images are in."""
    for table in tables:
        column = next(filter(is_label_name, table.others), None)
        labels = [] if column is None else table.rows.column(column).to_pylist()
        for place, label in zip(table.places(), labels, strict=False):
            if (
                place is not None
                and place.verdict == "found"
                and _class_of(place.path, classes) != str(label)
            ):
                return False
    return True


def _class_of(path: str, classes: ClassFolders) -> str | None:
    for folder in classes.folders:
        if path.startswith(f"{folder}/"):
            return path[len(str(folder)) + 1 :].partition("/")[0]
    return None


def _read_tables(tables: Sequence[ImageTable], config: DataOptions) -> _Found:
    splits, notes = read_image_tables(tables, config)
    for folder in dict.fromkeys(table.file.parent for table in tables):
        read = {table.file.name for table in tables if table.file.parent == folder}
        notes += note_on_files(folder, read)
    passed = dict.fromkeys(entry for table in tables for entry in table.index.left_out)
    return _Found(splits=splits, notes=(*notes, *note_on_left_out(tables[0].file.parent, list(passed))))


def _read_classes(classes: ClassFolders, tables: Sequence[ImageTable]) -> _Found:
    splits, notes = read_class_folders(classes.splits)
    beside = [
        f"The classes are the folders, and {table.file.name} is not read. To have one of its columns "
        f"({', '.join(table.others)}) as the label: --label_column_name {table.others[-1]}"
        for table in tables
        if table.others
    ]
    told = {table.file.name for table in tables if table.others}
    unread = [note for folder in classes.folders for note in note_on_files(folder, told)]
    notes = (*classes.notes, *notes, *unread, *beside)
    return _Found(splits=splits, notes=notes, labels_from=CLASS_FOLDERS)


def _table_of_each(folders: Mapping[str, Path], config: DataOptions) -> list[ImageTable]:
    """The table in the folder of each split."""
    chosen: list[ImageTable] = []
    for split, folder in folders.items():
        tables = find_image_tables(folder, config)
        if not tables:
            raise DataError(
                f"--{split}_dir {folder} has no table that names its images, and --train_dir has."
            )
        table, *others = choose_tables(tables, config)
        if others:
            raise DataError(f"{folder} has tables of several splits. Use --dataset_name {folder}.")
        chosen.append(replace(table, split=split))
    return chosen


def _num_classes(classes: ClassFolders | None) -> int:
    folders = () if classes is None else classes.folders
    return max((sum(map(has_images, folders_in(folder))) for folder in folders), default=0)


def _open_archives(folder: Path, archives: Sequence[Path], config: DataOptions) -> Source:
    """A folder of nothing but archives: one, or one for each split."""
    tables = [file for file in sorted(folder.iterdir()) if is_table(file)]
    if tables:
        raise DataError(
            f"{folder} has the table {tables[0].name} and the images in {archives[0].name}, where the table "
            "does not find them. Unpack the archive in that folder."
        )
    if len(archives) == 1:
        return open_file(archives[0], config)
    named = {split_of(archive_stem(archive)): archive for archive in archives}
    if len(named) < len(archives) or None in named:
        raise DataError(
            f"{folder} holds {len(archives)} archives that are not named like splits (train.zip, test.zip). "
            f"Name the one to use: --dataset_name {archives[0]}"
        )
    unpacked = {str(split): unpack(archive) for split, archive in named.items()}
    classes = {split: find_class_folders(found.folder) for split, found in unpacked.items()}
    places = {split: found.folders for split, found in classes.items() if found}
    if len(places) < len(unpacked):
        raise DataError(f"An archive in {folder} holds no class folders. {LAYOUTS}")
    found = _read_classes(ClassFolders(splits=places), [])
    notes = (*(note for archive in unpacked.values() for note in archive.notes), *found.notes)
    return replace(_as_source(folder, found), folders=tuple(chain(*places.values())), notes=notes)


def _only_archives(folder: Path) -> list[Path]:
    """The archives of a folder with nothing else for a data set in it."""
    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and not is_junk(entry.name)]
    archives = [file for file in files if is_to_unpack(file)]
    others = [file for file in files if file.suffix.lower() in _BUILDERS and not is_table(file)]
    return archives if set(others) <= set(archives) else []


def _has_stores(folder: Path) -> bool:
    """Whether there are files that hold images, in the folder or in those in it."""
    kinds = (*_BUILDERS, ".zip", ".tar.gz", ".tgz")
    return any(any(folder.glob(f"{below}*{kind}")) for kind in kinds for below in ("", "*/"))


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return any((folder / marker).is_file() for marker in ("dataset_dict.json", "state.json"))


def _names_no_images(file: Path, index: ImageIndex) -> str:
    first = next(iter(read_table(file).slice(0, 1).to_pylist()), {})
    row = ", ".join(f"{name} {value!r}" for name, value in first.items())
    advice = "Write paths from the folder of the table (img/1.jpg, or 1 if one such image is there)."
    if not index.paths:
        advice = f"Give the folder that holds both: --dataset_name {file.parent.parent}"
    there = str(Path(index.paths[0]).relative_to(index.folder)) if index.paths else "no images"
    return (
        f"No column of {file} names images that are there: its first row has {row or 'nothing'}, and the "
        f"folder has {there}. {advice}"
    )


def _split_patterns(folder: Path) -> dict[str, list[str]] | None:
    """Patterns of the files of each split, where the folder's own name looks like a pattern; else None.

    `datasets` finds the splits itself, but takes the folder's name for a part of the pattern.
    """
    escaped = glob.escape(str(folder))
    if escaped == str(folder):
        return None
    found = get_data_patterns(escaped)
    return {str(split): [f"{escaped}/{pattern}" for pattern in patterns] for split, patterns in found.items()}
