"""What the values of a label column mean: classes, in one order, and the labels of every row."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Features, Value
from numpy.typing import NDArray

from resnet_hub.errors import DataError
from resnet_hub.finetuning.data.columns import item_type
from resnet_hub.finetuning.data.roles import Role, place_of

MISSING = -1
"""The label of a row that has none, as `datasets` writes it for test splits without labels."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Classes in the order of the network's outputs, and the labels of each role in the order of its rows."""

    class_names: tuple[str, ...]
    multi_label: bool
    values: Mapping[str, NDArray[Any]]
    """Role -> int64 (rows,), or float32 (rows, classes) of zeros and ones if `multi_label`."""
    unlabelled: tuple[str, ...]
    """Roles whose rows have no labels at all; they are not in `values`."""


def read_labels(
    splits: Mapping[str, datasets.Dataset],
    column: str,
    roles: Mapping[str, Role],
    names: Sequence[str] | None = None,
) -> Labels:
    """The labels of every role, as places in one list of class names.

    The names are the given ones, else those the data set declares, else the sorted values that occur. A role
    none of whose rows is labelled (published test splits) is listed as unlabelled; single rows without label
    are an error.
    """
    everything: list[Any] = []
    for split in splits.values():
        everything += _plain_values(split, column)
    values = {role: [everything[row] for row in found.rows] for role, found in roles.items()}
    unlabelled = tuple(role for role, found in values.items() if all(value is None for value in found))
    sizes = {name: len(split) for name, split in splits.items()}
    _check_labelled(values, unlabelled, column, roles, sizes)
    values = {role: found for role, found in values.items() if role not in unlabelled}
    names = list(names) if names else declared_names({n: s.features for n, s in splits.items()}, column)
    lists = any(isinstance(value, list) for found in values.values() for value in found)
    if lists:
        values, width = _read_one_hot(values)
        names = names or ([str(number) for number in range(width)] if width else None)
        lists = any(isinstance(value, list) for found in values.values() for value in found)
    names = names or _sorted_names(values)
    encode = _as_sets if lists else _as_numbers
    labels = {role: encode(found, names) for role, found in values.items()}
    if "train" in labels and (len(names) == 1 or (not lists and len(np.unique(labels["train"])) == 1)):
        only = names[0] if lists else names[labels["train"][0]]
        raise DataError(
            f"All training images have the same label {only!r} in column {column}; nothing can be learnt."
        )
    return Labels(class_names=tuple(names), multi_label=lists, values=labels, unlabelled=unlabelled)


@dataclass(frozen=True, kw_only=True)
class LabelReader:
    """Makes labels, one by one, of what a label column holds; for rows that are read as a stream."""

    column: str
    feature: Any
    """The type of the column."""
    class_names: tuple[str, ...] = ()
    """In the order of the network's outputs."""

    @property
    def multi_label(self) -> bool:
        """Whether an image has any number of labels."""
        return item_type(self.feature) is not self.feature

    def names_in(self, values: Iterable[Any]) -> set[Any]:
        """The different values among those that the column holds, without those that stand for none."""
        plain = _plain_value(self.feature, self.column)
        return {plain(value) for value in set(values)} - {None}

    def one(self, value: Any) -> NDArray[Any]:
        """int64 (), or float32 (classes,) of zeros and ones for a list; DataError for what is no class."""
        plain = self._plain(value)
        if plain is None or (isinstance(plain, list) and None in plain):
            raise DataError(f"it has no label in column {self.column}.")
        wanted = plain if isinstance(plain, list) else [plain]
        unknown = [label for label in wanted if str(label) not in self._places]
        if unknown:
            raise DataError(
                f"its label {unknown[0]!r} in column {self.column} is none of {len(self._places)} classes."
            )
        places = [self._places[str(label)] for label in wanted]
        if not isinstance(plain, list):
            return np.array(places[0], dtype=np.int64)
        label = np.zeros(len(self._places), dtype=np.float32)
        label[places] = 1
        return label

    @cached_property
    def _plain(self) -> Callable[[Any], Any]:
        return _plain_value(self.feature, self.column)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}


def _plain_values(split: datasets.Dataset, column: str) -> list[Any]:
    """Class names, numbers, texts or lists of them; None where a row has no label."""
    if column not in split.column_names:
        return [None] * len(split)  # unlabelled splits sometimes lack the column altogether
    table: Any = split.select_columns([column]).with_format("arrow")[:]
    plain = _plain_value(split.features[column], column)
    values = [plain(value) for value in table.column(0).to_pylist()]
    if all(value == MISSING for value in values):
        return [None] * len(values)
    return values


def _plain_value(feature: Any, column: str) -> Callable[[Any], Any]:
    """What makes a class name, number, text or list of them of what a column of this type holds."""
    inner = item_type(feature)
    if isinstance(inner, ClassLabel):
        return partial(_read, one=partial(_name_of_class, inner.names, column))
    if isinstance(inner, Value) and inner.dtype.startswith("float"):
        return partial(_read, one=partial(_whole_number, column))
    return lambda value: value


def _read(value: Any, one: Callable[[Any], Any]) -> Any:
    if value is None:
        return None
    return [one(item) for item in value] if isinstance(value, list) else one(value)


def _name_of_class(names: Sequence[str], column: str, number: int) -> str | None:
    if number == MISSING:
        return None
    if not 0 <= number < len(names):
        raise DataError(
            f"Column {column} holds the class {number}, but the data set declares {len(names)} classes."
        )
    return names[number]


def _whole_number(column: str, value: float) -> int | None:
    if math.isnan(value):  # how tables without a type for "missing" say it
        return None
    if value != int(value):
        raise DataError(
            f"Column {column} holds fractions such as {value:g}. Classes are whole numbers or text; a "
            "quantity to be estimated is not what a classifier is for."
        )
    return int(value)


def _check_labelled(
    values: Mapping[str, list[Any]],
    unlabelled: tuple[str, ...],
    column: str,
    roles: Mapping[str, Role],
    sizes: Mapping[str, int],
) -> None:
    """Refuse rows without label, but for a test split that has none at all."""
    for role, found in values.items():
        missing = [place for place, value in enumerate(found) if value is None]
        if not missing or (role in unlabelled and role == "test"):
            continue
        split, row = place_of(int(roles[role].rows[missing[0]]), sizes)
        raise DataError(
            f"{len(missing):,} of {len(found):,} rows for {role} have no label in column {column}; the first "
            f"is row {row} of split {split}. Label or remove them, or choose other rows with --{role}_split."
        )


def declared_names(features_of_splits: Mapping[str, Features], column: str) -> list[str] | None:
    """The class names that the data set declares; refuses splits that declare different ones."""
    first: list[str] | None = None
    for name, features in features_of_splits.items():
        inner = item_type(features.get(column))
        if not isinstance(inner, ClassLabel):
            continue
        if first is None:
            first = list(inner.names)
        elif set(first) != set(inner.names):
            odd = sorted(set(first) ^ set(inner.names))
            raise DataError(
                f"The splits declare different classes in column {column}: {', '.join(odd[:5])} "
                f"{'is' if len(odd) == 1 else 'are'} not in all of them ({name} differs from the first)."
            )
    return first


def _sorted_names(values: Mapping[str, list[Any]]) -> list[str]:
    """The values that occur in any role, numbers in their order and texts in theirs."""
    found: set[Any] = set()
    for labels in values.values():
        for value in labels:
            found.update(value if isinstance(value, list) else [value])
    return [str(value) for value in sorted(found)]


def _read_one_hot(values: Mapping[str, list[Any]]) -> tuple[dict[str, list[Any]], int]:
    """Lists of zeros and ones as the places of the ones, with their length; others as they are, with 0.

    Lists of one length that hold nothing but zeros and ones, in some row one of them twice, cannot be lists
    of class numbers. If each has exactly one 1, the data set has a single label per image.
    """
    lists = [value for labels in values.values() for value in labels]
    widths = {len(value) for value in lists}
    is_numeric = all(isinstance(item, int) and item in (0, 1) for value in lists for item in value)
    if len(widths) != 1 or not is_numeric or not any(len(set(value)) < len(value) for value in lists):
        return dict(values), 0
    if all(sum(value) == 1 for value in lists):
        return {role: [value.index(1) for value in labels] for role, labels in values.items()}, widths.pop()
    places = {
        role: [[n for n, item in enumerate(value) if item] for value in labels]
        for role, labels in values.items()
    }
    return places, widths.pop()


def _as_numbers(values: list[Any], names: Sequence[str]) -> NDArray[np.int64]:
    place = {name: number for number, name in enumerate(names)}
    return np.array([place[str(value)] for value in values], dtype=np.int64)


def _as_sets(values: list[Any], names: Sequence[str]) -> NDArray[np.float32]:
    place = {name: number for number, name in enumerate(names)}
    sets = np.zeros((len(values), len(names)), dtype=np.float32)
    for row, labels in enumerate(values):
        sets[row, [place[str(label)] for label in labels]] = 1
    return sets
