"""What was understood of a data set, and how to say it in a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from resnet_hub.finetuning.data.columns import Columns
from resnet_hub.finetuning.data.labels import Labels
from resnet_hub.finetuning.data.notes import (
    notes_on_classes,
    notes_on_contradictions,
    notes_on_images,
    notes_on_names,
    shown,
    some_of,
)
from resnet_hub.finetuning.data.split import Split
from resnet_hub.terminal import printable

_MOST_ROWS = 20  # classes that the table has a row for


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
    labels_read: str
    """What labels were made of: `single-label, from column 'label' (indicator vectors)`."""
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
            "labels_read": self.labels_read,
            "class_counts": {name: list(counts) for name, counts in self.class_counts.items()},
            "image_sizes": {"smallest": smallest, "median": median, "largest": largest},
            "image_kinds": dict(self.kinds),
            "notes": list(self.notes),
        }


def understand(
    columns: Columns, labels: Labels, splits: Mapping[str, Split], *, labels_from: str | None = None
) -> DataFacts:
    """The facts of a data set with these final splits; `labels_from` is None for labels of a column."""
    counts = {name: _count_classes(split, len(labels.class_names)) for name, split in splits.items()}
    notes = (*notes_on_classes(labels, counts), *notes_on_contradictions(labels, splits))
    return _facts(columns, labels, splits, counts, notes=notes, labels_from=labels_from)


def with_notes(facts: DataFacts, notes: Sequence[str]) -> DataFacts:
    """The facts with what is known of how the data set was found."""
    return replace(facts, notes=(*notes, *facts.notes))


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
        f"Training images are streamed: their sizes, kinds and duplicates are those of a sample of "
        f"{len(splits[sample]):,}; how many each class has is not known."
    )
    notes = (note, *notes_on_names(labels, counts), *notes_on_contradictions(labels, splits))
    return _facts(columns, labels, splits, counts, notes=notes)


def _facts(
    columns: Columns,
    labels: Labels,
    splits: Mapping[str, Split],
    counts: Mapping[str, tuple[int, ...]],
    *,
    notes: Sequence[str],
    labels_from: str | None = None,
) -> DataFacts:
    sizes = np.concatenate([split.seen.sizes for split in splits.values()])
    by_area = sizes[np.argsort(sizes.prod(axis=1), kind="stable")]
    smallest, median, largest = (
        (int(by_area[place][0]), int(by_area[place][1])) for place in (0, len(by_area) // 2, -1)
    )
    kinds = Counter(str(kind) for split in splits.values() for kind in split.seen.kinds)
    duplicates = _count_duplicates(splits)
    place = labels_from or f"column {columns.label!r} ({labels.form})"
    return DataFacts(
        columns=columns,
        labels_read=f"{'multi-label' if labels.multi_label else 'single-label'}, from {place}",
        class_counts=counts,
        size_range=(smallest, median, largest),
        kinds=dict(kinds.most_common()),
        duplicates=duplicates,
        notes=(
            *notes,
            *notes_on_images(kinds, duplicates, sizes),
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
        ("data set", printable(title, keep="")),
        ("columns", f"images in {facts.columns.image!r}, labels in {facts.columns.label!r}"),
        ("labels", facts.labels_read),
        *_rows_of_classes(class_names, facts.class_counts),
        *(
            (split.name, _describe_split(split, facts.class_counts.get(split.name)))
            for split in splits.values()
        ),
        ("images", f"{smallest} to {largest}, median {median}; {_describe_kinds(facts.kinds)}"),
        ("left out", f"{num_bad:,} unreadable images" if num_bad else "none"),
        *(("note", note) for note in facts.notes),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _rows_of_classes(
    class_names: Sequence[str], counts: Mapping[str, Sequence[int]]
) -> list[tuple[str, str]]:
    """The first few names; where classes are few, a row for each with its images in each split."""
    listed = ("classes", f"{len(class_names)}: {some_of([shown(name) for name in class_names])}")
    if len(class_names) > _MOST_ROWS or not counts:
        return [listed]
    names = [shown(name) for name in class_names]
    columns = [("", *names)] + [(split, *(f"{n:,}" for n in found)) for split, found in counts.items()]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        f"{name:<{widths[0]}}  "
        + "  ".join(f"{n:>{width}}" for n, width in zip(row, widths[1:], strict=True))
        for name, *row in zip(*columns, strict=True)
    ]
    return [listed, *(("", row) for row in rows)]


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
