"""What a run trains and measures on, with everything that was understood of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.settings import DataSettings
from resnet_hub.finetuning.data.facts import DataFacts, describe
from resnet_hub.finetuning.data.roles import place_of
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.results import DatasetRecord

SHOWN = 10  # bad images in an error message


@dataclass(frozen=True, kw_only=True)
class BadImage:
    """A row that was left out because its image cannot be used."""

    split: str
    """Of the source, which is where a person finds it."""
    row: int
    used_for: str
    problem: str
    file: str | None = None
    """Where it is, if it is a file of its own."""

    def __str__(self) -> str:
        """Where it is and what is wrong with it, in a line."""
        return f"{self.file or f'{self.split} row {self.row}'}: {self.problem}"


@dataclass(frozen=True, kw_only=True)
class ImageData(DatasetRecord):
    """A data set ready for training: splits, classes, and what was understood."""

    train: Split | TrainStream
    validation: Split | None
    test: Split | None
    fingerprint: str
    """Changes with any image, label, class name or split; a resumed run compares it."""
    facts: DataFacts
    bad_images: tuple[BadImage, ...]
    sample: Split | None = None
    """Some training images on disk, where the others are a stream."""

    @property
    def mapped_train(self) -> Split:
        """The training images that can be had in any order: all of them, or the sample of a stream."""
        found = self.sample or self.train
        assert isinstance(found, Split)
        return found

    def in_order_of(self, settings: DataSettings) -> "ImageData":
        """The data with its stream, if it has one, in the order that the settings ask for."""
        if not isinstance(self.train, TrainStream):
            return self
        ordered = self.train.ordered(parts=settings.stream_parts, buffer=settings.shuffle_buffer)
        return replace(self, train=ordered)

    @property
    def splits(self) -> dict[str, Split | TrainStream]:
        """The splits there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    @property
    def evaluated(self) -> dict[str, Split]:
        """Those of them that models are measured on, by name."""
        found = {"validation": self.validation, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}

    def table(self) -> str:
        """What was understood, as a table for a terminal."""
        title = self.dataset + (f" at {self.dataset_revision[:12]}" if self.dataset_revision else "")
        return describe(title, self.class_names, self.splits, self.facts, num_bad=len(self.bad_images))


def find_bad_images(
    splits: Mapping[str, Split],
    sizes: Mapping[str, int],
    limit: float,
    *,
    numbers: Mapping[str, NDArray[np.int64]] | None = None,
) -> tuple[BadImage, ...]:
    """The rows whose images cannot be used; DataError with a list if they are more than `limit` of all.

    `numbers` are those of the rows in the source, where a split has only some of them in a table of its own.
    """
    bad: list[BadImage] = []
    for name, split in splits.items():
        for position in np.flatnonzero(split.seen.problems != ""):
            number = split.rows[position] if numbers is None else numbers[name][position]
            source_split, row = place_of(int(number), sizes)
            problem = str(split.seen.problems[position])
            file = split.images.file_of(int(split.rows[position]))
            bad.append(BadImage(split=source_split, row=row, used_for=name, problem=problem, file=file))
    total = sum(len(split) for split in splits.values())
    if len(bad) > limit * total:
        listed = "\n".join(f"  {image}" for image in bad[:SHOWN])
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError(
            f"{len(bad):,} of {total:,} images ({len(bad) / total:.1%}) cannot be used; --max_bad_images "
            f"allows {limit:.1%}.\n{listed}{more}\nRepair or remove them, or raise --max_bad_images to leave "
            "them out."
        )
    return tuple(bad)


def without_bad(split: Split) -> Split:
    """The split without the images that cannot be used; DataError if none is left."""
    good = split.seen.problems == ""
    if not good.any():
        raise DataError(f"No image for {split.name} ({split.how}) can be used.")
    return split if good.all() else split.take(good, name=split.name, how=split.how)
