"""A labelled image data set with its splits, and everything that was understood of it before training."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import find_columns
from resnet_hub.finetuning.data.dataset import ImageData, find_bad_images, without_bad
from resnet_hub.finetuning.data.facts import understand
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
    stratified_sides,
)
from resnet_hub.finetuning.data.sources import Source, open_source
from resnet_hub.finetuning.data.split import Split


def load_data(config: DataOptions, inspect: Inspector | None = None) -> ImageData:
    """Find, read, check and split the data set that `config` names.

    Every image is read once, by `inspect`; without it by this process alone. Raises DataError, before
    anything is written, for whatever cannot be found, understood or trusted. With `--streaming` the training
    split is a stream, of which only a sample is read here.
    """
    inspect = inspect or Inspector()
    if config.streaming:
        return load_streamed(config, inspect)
    source = open_source(config)
    sizes = {name: len(split) for name, split in source.splits.items()}
    roles = find_roles(sizes, config)
    columns = find_columns(_features_of_train(source, roles["train"], sizes), config)
    images = ImageColumn.of(source.splits, columns.image, source.folders)
    labels = read_labels(source.splits, columns.label, roles)
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
    return ImageData(
        dataset=source.name,
        dataset_revision=source.revision,
        class_names=labels.class_names,
        multi_label=labels.multi_label,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        fingerprint=_fingerprint(labels, splits),
        facts=understand(columns, labels, splits),
        bad_images=bad_images,
    )


@dataclass(frozen=True, kw_only=True)
class LoadedSplit:
    """One split of a data set by itself, for a model that is trained already."""

    source: Source
    labels: Labels
    split: Split


def load_split(config: DataOptions, name: str | None) -> LoadedSplit:
    """The labelled images of a split, slice or sum of splits; of the one for measuring if none is named.

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
    labels = read_labels(source.splits, columns.label, {"validation": role})
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


def take_missing_splits(splits: Mapping[str, Split], labels: Labels, config: DataOptions) -> dict[str, Split]:
    """`splits` with validation and test taken out of train where the data set has none.

    How much: `validation_fraction` and `test_fraction`; which: a function of `seed` and the labels. Equal
    images stay on one side. A test split that exists but has no labels is not replaced by part of train.
    """
    wanted = {"validation": config.validation_fraction, "test": config.test_fraction}
    shares = {
        name: share
        for name, share in wanted.items()
        if name not in splits and name not in labels.unlabelled and share > 0
    }
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
                f"{len(train)} images are too few to take {share:.0%} of them for {name}. Give a split or "
                f"folder for it, or another --{name}_fraction."
            )
    everything = {**splits, **made}
    return {name: everything[name] for name in ROLES if name in everything}


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
