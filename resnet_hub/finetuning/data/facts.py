"""What was understood of a data set, and how to say it in a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_hub.finetuning.data.columns import Columns
from resnet_hub.finetuning.data.labels import Labels
from resnet_hub.finetuning.data.split import Split

_SHOWN = 5  # class names in a note
_FEWEST_PIXELS = 8  # on a side; the smallest data set in use, the digits, has images of 8x8
_IMBALANCE = 10  # images of the commonest class over those of the rarest, from which on it is worth a note


class AnySplit(Protocol):
    """What can be said of any split, one that is streamed among them."""

    @property
    def name(self) -> str:
        """train, validation or test."""
        ...

    @property
    def how(self) -> str:
        """How it came about."""
        ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What was understood of a data set."""

    columns: Columns
    class_counts: Mapping[str, tuple[int, ...]]
    """Split -> images of each class; without a split that is streamed."""
    size_range: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """Width and height in pixels of the smallest, the median and the largest image, by area."""
    kinds: Mapping[str, int]
    """File format and mode -> number of images."""
    duplicates: Mapping[str, int]
    """`validation in train` -> images of validation that are in train too, by content."""
    notes: tuple[str, ...]
    """What a person should know before believing the scores."""

    def record(self) -> dict[str, Any]:
        """The facts as values that JSON knows, for `report.json`."""
        smallest, median, largest = (list(size) for size in self.size_range)
        return {
            "image_column": self.columns.image,
            "label_column": self.columns.label,
            "class_counts": {name: list(counts) for name, counts in self.class_counts.items()},
            "image_sizes": {"smallest": smallest, "median": median, "largest": largest},
            "image_kinds": dict(self.kinds),
            "notes": list(self.notes),
        }


def understand(columns: Columns, labels: Labels, splits: Mapping[str, Split]) -> DataFacts:
    """The facts of a data set with these final splits."""
    counts = {name: _count_classes(split, len(labels.class_names)) for name, split in splits.items()}
    return _facts(columns, labels, splits, counts, notes=_notes_on_classes(labels, counts))


def understand_stream(
    columns: Columns, labels: Labels, splits: Mapping[str, Split], *, sample: str
) -> DataFacts:
    """The facts of a data set whose training images are streamed; `splits[sample]` are some of these."""
    counts = {
        name: _count_classes(split, len(labels.class_names))
        for name, split in splits.items()
        if name != sample
    }
    note = (
        f"Training images are streamed: what is said of their sizes, kinds and duplicates is of a sample of "
        f"{len(splits[sample]):,}; how many each class has is not known."
    )
    return _facts(columns, labels, splits, counts, notes=[note])


def _facts(
    columns: Columns,
    labels: Labels,
    splits: Mapping[str, Split],
    counts: Mapping[str, tuple[int, ...]],
    *,
    notes: Sequence[str],
) -> DataFacts:
    sizes = np.concatenate([split.seen.sizes for split in splits.values()])
    by_area = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
    smallest, median, largest = (
        (int(by_area[place][0]), int(by_area[place][1])) for place in (0, len(by_area) // 2, -1)
    )
    kinds = Counter(str(kind) for split in splits.values() for kind in split.seen.kinds)
    duplicates = _count_duplicates(splits)
    return DataFacts(
        columns=columns,
        class_counts=counts,
        size_range=(smallest, median, largest),
        kinds=dict(kinds.most_common()),
        duplicates=duplicates,
        notes=(
            *notes,
            *_notes_on_images(kinds, duplicates, sizes),
            *(f"{name} has no labels and is not scored." for name in labels.unlabelled),
        ),
    )


def describe(
    title: str,
    class_names: Sequence[str],
    splits: Mapping[str, AnySplit],
    facts: DataFacts,
    *,
    num_bad: int,
) -> str:
    """The facts as lines for a terminal."""
    smallest, median, largest = (f"{width}x{height}" for width, height in facts.size_range)
    lines = [
        ("data set", title),
        ("columns", f"images in {facts.columns.image!r}, labels in {facts.columns.label!r}"),
        ("classes", f"{len(class_names)}: {_some(class_names)}"),
        *(
            (split.name, _describe_split(split, facts.class_counts.get(split.name)))
            for split in splits.values()
        ),
        ("images", f"{smallest} to {largest}, median {median}; {_describe_kinds(facts.kinds)}"),
        ("left out", f"{num_bad:,} unreadable images" if num_bad else "none"),
        *(("note", note) for note in facts.notes),
    ]
    width = max(len(title) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _describe_split(split: AnySplit, counts: Sequence[int] | None) -> str:
    per_class = f", {min(counts):,} to {max(counts):,} per class" if counts else ""
    return f"{len(split):,} images{per_class} ({split.how})"


def _describe_kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _count_classes(split: Split, num_classes: int) -> tuple[int, ...]:
    counts = (
        split.labels.sum(axis=0)
        if split.labels.ndim > 1
        else np.bincount(split.labels, minlength=num_classes)
    )
    return tuple(int(count) for count in counts)


def _count_duplicates(splits: Mapping[str, Split]) -> dict[str, int]:
    pairs = combinations(splits.values(), 2)
    shared = {
        f"{later.name} in {earlier.name}": int(np.isin(later.seen.digests, earlier.seen.digests).sum())
        for earlier, later in pairs
    }
    return {name: count for name, count in shared.items() if count}


def _notes_on_classes(labels: Labels, counts: Mapping[str, Sequence[int]]) -> list[str]:
    notes: list[str] = []
    train = np.array(counts["train"])
    absent = [name for name, count in zip(labels.class_names, train, strict=True) if count == 0]
    if absent:
        notes.append(f"{len(absent)} classes have no training image and cannot be learnt: {_some(absent)}.")
    for split, found in counts.items():
        unseen = int(np.array(found)[train == 0].sum())
        if unseen:
            notes.append(f"{unseen} labels of {split} are of classes that train lacks; they count as errors.")
    present = train[train > 0]
    if present.max() >= _IMBALANCE * present.min():
        notes.append(
            f"The commonest class has {present.max() / present.min():.0f} times the images of the rarest."
        )
    return notes


def _notes_on_images(
    kinds: Mapping[str, int], duplicates: Mapping[str, int], sizes: NDArray[np.int32]
) -> list[str]:
    notes = [
        f"{count:,} images of {where} by content, which flatters the score."
        for where, count in duplicates.items()
    ]
    wide = sum(count for kind, count in kinds.items() if kind.split()[-1].startswith(("I", "F")))
    if wide:
        notes.append(f"{wide:,} images have 16 or 32 bits per pixel and are scaled to 8: white is 65,535.")
    tiny = int((sizes.min(axis=1) < _FEWEST_PIXELS).sum())
    if tiny:
        notes.append(f"{tiny:,} images have a side of less than {_FEWEST_PIXELS} pixels.")
    return notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
