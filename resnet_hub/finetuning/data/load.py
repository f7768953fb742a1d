"""A labelled image data set with its splits, and everything that was understood of it before training."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import find_columns, find_image_column
from resnet_hub.finetuning.data.dataset import ImageData, find_bad_images, without_bad
from resnet_hub.finetuning.data.facts import understand, with_notes
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.inspection import Inspector
from resnet_hub.finetuning.data.labels import Labels, read_labels
from resnet_hub.finetuning.data.load_streamed import load_streamed
from resnet_hub.finetuning.data.roles import (
    ROLES,
    Role,
    choose_evaluated_split,
    find_roles,
    place_of,
    resolve_split,
    stratified_sample,
    stratified_sides,
)
from resnet_hub.finetuning.data.sources import Source, open_source, title_of
from resnet_hub.finetuning.data.split import Split
from resnet_hub.hub.config_file import problem_with_names

_FEWEST_CAPTIONS = 4  # images with a label each, from which on the labels are taken for captions


def load_data(
    config: DataOptions, inspect: Inspector | None = None, *, source: Source | None = None
) -> ImageData:
    """Find, read, check and split the data set that `config` names, or the one that is given.

    Every image is read once, by `inspect`; without it by this process alone. Raises DataError, before
    anything is written, for whatever cannot be found, understood or trusted. With `--streaming` the training
    split is a stream, of which only a sample is read here.
    """
    inspect = inspect or Inspector()
    if config.streaming:
        return load_streamed(config, inspect)
    source = source or open_source(config)
    sizes = {name: len(split) for name, split in source.splits.items()}
    roles = find_roles(sizes, config)
    columns = find_columns(_features_of_train(source, roles["train"], sizes), config)
    images = ImageColumn.of(source.splits, columns.image, source.folders)
    labels = read_labels(source.splits, columns.label, roles)
    _check_classes(labels, columns.label)
    roles, labels = _with_limits(roles, labels, config)
    found = {
        name: Split(
            name=name,
            how=roles[name].how,
            labels=values,
            rows=roles[name].rows,
            images=images,
            seen=inspect(images, roles[name].rows),
        )
        for name, values in labels.values.items()
    }
    bad_images = find_bad_images(found, sizes, config.max_bad_images)
    readable = {name: without_bad(split) for name, split in found.items()}
    splits = take_missing_splits(readable, labels, config)
    splits = {name: _limited(split, config) for name, split in splits.items()}
    return ImageData(
        dataset=title_of(source.name, source.revision, config),
        dataset_revision=source.revision,
        class_names=labels.class_names,
        multi_label=labels.multi_label,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        fingerprint=_fingerprint(labels, splits),
        facts=with_notes(understand(columns, labels, splits, labels_from=source.labels_from), source.notes),
        bad_images=bad_images,
    )


@dataclass(frozen=True, kw_only=True)
class LoadedSplit:
    """One split of a data set by itself, for a model that is trained already."""

    source: Source
    labels: Labels
    split: Split


def load_split(config: DataOptions, name: str | None, *, multi_label: bool | None = None) -> LoadedSplit:
    """The labelled images of a split, slice or sum of splits; of the one for measuring if none is named.

    `multi_label` is what the model is that they are for; None to go by the labels.
    Raises DataError as `load_data` does.
    """
    source = open_source(config)
    sizes = {split: len(rows) for split, rows in source.splits.items()}
    spec = name or choose_evaluated_split(sizes)
    role = Role(rows=resolve_split(spec, sizes, option="--split"), how=f"{spec} of the data set")
    if not len(role.rows):
        raise DataError(f"--split {spec} has no images.")
    columns = find_columns(_features_of_train(source, role, sizes), config)
    images = ImageColumn.of(source.splits, columns.image, source.folders)
    labels = read_labels(source.splits, columns.label, {"validation": role}, multi_label=multi_label)
    split = Split(
        name=spec,
        how=role.how,
        labels=labels.values["validation"],
        rows=role.rows,
        images=images,
        seen=Inspector()(images, role.rows),
    )
    find_bad_images({spec: split}, sizes, config.max_bad_images)
    return LoadedSplit(source=source, labels=labels, split=without_bad(split))


@dataclass(frozen=True, kw_only=True)
class DatasetImage:
    """One image of a data set; `read` fetches its bytes."""

    name: str
    """Split and row: `test[12]`."""
    row: int
    images: ImageColumn

    def read(self) -> bytes:
        """The encoded bytes; raises BadImageError."""
        (stored,) = self.images.stored(np.array([self.row]))
        return self.images.read(stored)


class DatasetImages(Sequence[DatasetImage]):
    """The images of some rows, made when they are asked for."""

    def __init__(self, images: ImageColumn, rows: np.ndarray, sizes: dict[str, int]) -> None:
        self._images, self._rows, self._sizes = images, rows, sizes

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> DatasetImage: ...
    @overload
    def __getitem__(self, index: slice) -> "DatasetImages": ...
    def __getitem__(self, index: int | slice) -> "DatasetImage | DatasetImages":
        if isinstance(index, slice):
            return DatasetImages(self._images, self._rows[index], self._sizes)
        row = int(self._rows[index])
        split, number = place_of(row, self._sizes)
        return DatasetImage(name=f"{split}[{number}]", row=row, images=self._images)


def open_images(config: DataOptions, split: str | None) -> DatasetImages:
    """The images of a split, slice or sum of splits, of all splits if none is named; they need no labels.

    Raises DataError for a data set, a split or a column that is not there.
    """
    source = open_source(config, needs_labels=False)
    sizes = {name: len(part) for name, part in source.splits.items()}
    if not sum(sizes.values()):
        raise DataError(f"The data set {source.name} has no rows.")
    named = "+".join(sizes) if split is None else split
    rows = resolve_split(named, sizes, option="--split")
    features = next(iter(source.splits.values())).features
    return DatasetImages(
        ImageColumn.of(source.splits, find_image_column(features, config), source.folders), rows, sizes
    )


def take_missing_splits(splits: Mapping[str, Split], labels: Labels, config: DataOptions) -> dict[str, Split]:
    """`splits` with validation and test taken out of train where the data set has none.

    How much: `validation_fraction` and `test_fraction`; which: a function of `seed` and the labels. Equal
    images stay on one side. A test split that exists but has no labels is not replaced by part of train.
    """
    shares = _shares_of_train({*splits, *labels.unlabelled}, config)
    if not shares:
        return dict(splits)
    train = splits["train"]
    _, first, same = np.unique(train.seen.digests, return_index=True, return_inverse=True)
    side = stratified_sides(groups_of(train.labels), first[same], list(shares.values()), seed=config.seed)
    how = f"what {' and '.join(shares)} left of {train.how}"
    made = {"train": train.take(side == 0, name="train", how=how)}
    for number, (name, share) in enumerate(shares.items(), start=1):
        how = f"{share:.0%} of {train.how}, stratified, seed {config.seed}"
        made[name] = train.take(side == number, name=name, how=how)
        if not len(made[name]):
            raise DataError(
                f"{len(train)} images are too few to take {share:.0%} of them for {name}, as each class "
                f"keeps one for train. Give a split or folder for it, or another --{name}_fraction."
            )
    everything = {**splits, **made}
    return {name: everything[name] for name in ROLES if name in everything}


def _shares_of_train(there: set[str], config: DataOptions) -> dict[str, float]:
    """The roles that are taken out of train, each with its share."""
    wanted = {"validation": config.validation_fraction, "test": config.test_fraction}
    return {name: share for name, share in wanted.items() if name not in there and share > 0}


def _check_classes(labels: Labels, column: str) -> None:
    """Refuse class names that no export can hold, and a column that tells each image from each other."""
    problem = problem_with_names(labels.class_names)
    if problem:
        raise DataError(
            f"The model could not be saved: {problem}. Shorten or merge the classes in column {column}, or "
            "choose another column with --label_column_name."
        )
    train = labels.values["train"]
    if labels.declared or labels.multi_label or len(train) < _FEWEST_CAPTIONS:
        return
    if len(np.unique(train)) == len(train):
        some = ", ".join(repr(name[:40]) for name in labels.class_names[:3])
        raise DataError(
            f"Each of the {len(train):,} training images has a label of its own in column {column} ({some}), "
            "as captions, file names or numbers of rows are. Choose the column of the classes with "
            "--label_column_name, or put each class into a folder."
        )


def _with_limits(
    roles: Mapping[str, Role], labels: Labels, config: DataOptions
) -> tuple[dict[str, Role], Labels]:
    """Roles and labels of the rows that are wanted, before their images are read.

    Train is left whole where other roles are taken out of it; what is left of it is limited afterwards.
    """
    limited, values = dict(roles), dict(labels.values)
    divided = {"train"} if _shares_of_train({*labels.values, *labels.unlabelled}, config) else set()
    for name in values.keys() - divided:
        chosen = _sample(values[name], _most(name, config), config.seed)
        if chosen is not None:
            how = _how_limited(len(chosen), roles[name].how, config)
            limited[name] = Role(rows=roles[name].rows[chosen], how=how)
            values[name] = values[name][chosen]
    return limited, replace(labels, values=values)


def _limited(split: Split, config: DataOptions) -> Split:
    """The split with no more images than are wanted."""
    chosen = _sample(split.labels, _most(split.name, config), config.seed)
    if chosen is None:
        return split
    return split.take(chosen, name=split.name, how=_how_limited(len(chosen), split.how, config))


def _most(name: str, config: DataOptions) -> int | None:
    return config.max_train_samples if name == "train" else config.max_eval_samples


def _how_limited(count: int, how: str, config: DataOptions) -> str:
    return f"{count:,} of {how}, stratified, seed {config.seed}"


def _sample(labels: NDArray[Any], most: int | None, seed: int) -> NDArray[np.int64] | None:
    """Places of at most so many rows; None for all."""
    if most is None or len(labels) <= most:
        return None
    return stratified_sample(groups_of(labels), most, seed=seed)


def _features_of_train(source: Source, train: Role, sizes: Mapping[str, int]) -> Any:
    return source.splits[place_of(int(train.rows[0]), sizes)[0]].features


def groups_of(labels: NDArray[Any]) -> NDArray[np.int64]:
    """What rows are stratified by: their class, or of several labels the rarest, -1 for none."""
    if labels.ndim == 1:
        return labels
    by_rarity = np.argsort(labels.sum(axis=0), kind="stable")
    rarest = by_rarity[labels[:, by_rarity].argmax(axis=1)]
    return np.where(labels.any(axis=1), rarest, -1)


def _fingerprint(labels: Labels, splits: Mapping[str, Split]) -> str:
    """A digest of class names, images, labels and splits, in their order."""
    digest = hashlib.sha256(repr((labels.class_names, labels.multi_label)).encode())
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}".encode())
        digest.update(split.labels.tobytes())
        digest.update(split.seen.digests.tobytes())
    return digest.hexdigest()
