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

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.data.columns import item_type, label_feature, label_values
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
    form: str = "one class per row"
    """What the column holds: one class per row, indicator vectors, lists of classes, or of one class each."""
    declared: bool = True
    """Whether the data set names its classes; else they are the values that occur."""


def read_labels(
    splits: Mapping[str, datasets.Dataset],
    column: str,
    roles: Mapping[str, Role],
    names: Sequence[str] | None = None,
    *,
    multi_label: bool | None = None,
) -> Labels:
    """The labels of every role, as places in one list of class names.

    The names are the given ones, else those the data set declares, else the sorted values that occur. Lists
    are single-label if each of them names exactly one class. A role none of whose rows is labelled
    (published test splits) is listed as unlabelled; single rows without label are an error.

    Args:
        splits: All splits of the source, which decide together what the lists are.
        column: Name of the label column; a split may lack it.
        roles: The rows to read, counted through all splits.
        names: Class names in the order of the network's outputs.
        multi_label: Whether the model they are for is multi-label; None to go by the values.
    """
    kinds = {name: label_feature(split.features, column) for name, split in splits.items()}
    stored = {name: _without_missing(label_values(split, column)) for name, split in splits.items()}
    declared = declared_names({name: split.features for name, split in splits.items()}, column)
    width = _vector_width((value for values in stored.values() for value in values), declared)
    if width:
        declared = declared if declared and len(declared) == width else [str(n) for n in range(width)]
    everything: list[Any] = []
    for name, values in stored.items():
        read = partial(_named_in_vector, declared or []) if width else _plain_value(kinds[name], column)
        everything += map(read, values)
    values = {role: [everything[row] for row in found.rows] for role, found in roles.items()}
    unlabelled = tuple(role for role, found in values.items() if all(value is None for value in found))
    if width and _is_blank_test(values):
        unlabelled += ("test",)
    _check_labelled(values, unlabelled, column, roles, splits)
    values = {role: found for role, found in values.items() if role not in unlabelled}
    _check_one_type(values, column)
    form = "indicator vectors" if width else _form_of(values)
    is_multi = bool(multi_label) or not _name_one_class_each(values)
    names = list(names or declared or _sorted_names(values))
    encode = _as_sets if is_multi else _as_numbers
    labels = {role: encode(found, names) for role, found in values.items()}
    _check_classes_differ(labels, names, column)
    return Labels(
        class_names=tuple(names),
        multi_label=is_multi,
        values=labels,
        unlabelled=unlabelled,
        form=form,
        declared=declared is not None,
    )


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
        return {name for name in map(plain, set(values)) if not _is_missing(name)}

    def one(self, value: Any) -> NDArray[Any]:
        """int64 (), or float32 (classes,) of zeros and ones for a list; DataError for what is no class."""
        plain = self._plain(value)
        if _is_missing(plain):
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

    def check_sets(self, values: Iterable[Any]) -> None:
        """Refuse lists that are indicator vectors, all rows together; a stream reads each list by itself."""
        if self.multi_label and _vector_width(values, self.class_names):
            raise DataError(
                f"Column {self.column} holds indicator vectors, and --streaming reads lists as sets of "
                "classes. Leave it out, or store the classes of each image in place of the vectors."
            )

    @cached_property
    def _plain(self) -> Callable[[Any], Any]:
        return _plain_value(self.feature, self.column)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.class_names)}


def declared_names(features_of_splits: Mapping[str, Features], column: str) -> list[str] | None:
    """The class names that the data set declares; refuses splits that declare different ones."""
    first: list[str] | None = None
    for name, features in features_of_splits.items():
        inner = item_type(label_feature(features, column))
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
    if math.isnan(value):
        return None
    if not value.is_integer():
        raise DataError(
            f"Column {column} holds fractions such as {value:g}. Classes are whole numbers or text; a "
            "quantity to be estimated, or a share of each class, is not what a classifier is for. Choose "
            "another column with --label_column_name, or write names such as v1.5."
        )
    return int(value)


def _without_missing(values: list[Any]) -> list[Any]:
    """The values of a column with None where a label, or an item of a list of them, is missing."""
    numbers = {value for value in values if isinstance(value, int | float) and not math.isnan(value)}
    are_signs = numbers == {MISSING, 1}  # two classes, called -1 and 1
    return [None if _is_missing(value, minus_one=not are_signs) else value for value in values]


def _is_missing(value: Any, *, minus_one: bool = True) -> bool:
    """Whether a value, or an item of a list, stands for no label: null, NaN, blank text, mostly -1 too."""
    if isinstance(value, list):
        return any(map(_is_missing, value))
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float) and math.isnan(value):  # how tables without a type for "missing" say it
        return True
    return value is None or (minus_one and value == MISSING)


def _vector_width(values: Iterable[Any], declared: Sequence[str] | None) -> int:
    """Length of the indicator vectors that the lists of all rows are; 0 if they are sets of classes.

    A set holds no class twice. So lists of one length, above one, of nothing but zeros and ones could only
    be the set of both classes in every row, which tells no image from another.
    """
    width = 0
    for value in values:
        if value is None or value == []:
            continue
        if not isinstance(value, list) or len(value) != (width or len(value)):
            return 0
        if any(isinstance(item, str) or item not in (0, 1) for item in value):
            return 0
        width = len(value)
    is_named_otherwise = declared is not None and len(declared) not in (2, width)
    return 0 if width == 1 or is_named_otherwise else width


def _named_in_vector(names: Sequence[str], vector: list[Any] | None) -> list[str] | None:
    return [name for name, there in zip(names, vector, strict=True) if there] if vector else None


def _is_blank_test(values: Mapping[str, list[Any]]) -> bool:
    """Whether test has vectors of zeros alone, where each of train has exactly one 1: it has no labels."""
    test, others = values.get("test"), [found for role, found in values.items() if role != "test"]
    if not test or not others or any(test):
        return False
    return all(value is not None and len(value) == 1 for found in others for value in found)


def _form_of(values: Mapping[str, list[Any]]) -> str:
    if not any(isinstance(value, list) for found in values.values() for value in found):
        return "one class per row"
    return "lists of one class" if _name_one_class_each(values) else "lists of classes"


def _name_one_class_each(values: Mapping[str, list[Any]]) -> bool:
    return all(len(set(_as_list(value))) == 1 for found in values.values() for value in found)


def _check_one_type(values: Mapping[str, list[Any]], column: str) -> None:
    """Refuse text in one split and numbers in another: "01" and 1 may be one class or two."""
    words = {str: "text", bool: "true/false", int: "numbers"}
    kinds = {
        role: {words[type(item)] for value in found for item in _as_list(value)}
        for role, found in values.items()
    }
    if len(set().union(*kinds.values())) > 1:
        told = ", ".join(f"{' and '.join(sorted(kind))} in {role}" for role, kind in kinds.items())
        raise DataError(
            f"Column {column} holds {told}, so which classes are the same is not clear. Write it in one type "
            "in all splits."
        )


def _check_classes_differ(labels: Mapping[str, NDArray[Any]], names: Sequence[str], column: str) -> None:
    """Refuse training rows that all have the same labels."""
    train = labels.get("train")
    if train is None or (len(names) > 1 and (train != train[0]).any()):
        return
    common = (
        [names[int(train[0])]] if train.ndim == 1 else [names[n] for n in np.flatnonzero(train[0]).tolist()]
    )
    only = ", ".join(map(repr, common or names))
    raise DataError(
        f"All training images have the same label {only} in column {column}; nothing can be learnt. Choose "
        "another column with --label_column_name, or add images of other classes."
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_labelled(
    values: Mapping[str, list[Any]],
    unlabelled: tuple[str, ...],
    column: str,
    roles: Mapping[str, Role],
    splits: Mapping[str, datasets.Dataset],
) -> None:
    """Refuse rows without label, but for a test split that has none at all."""
    sizes = {name: len(split) for name, split in splits.items()}
    for role, found in values.items():
        missing = [place for place, value in enumerate(found) if value is None]
        if not missing or (role in unlabelled and role == "test"):
            continue
        split, row = place_of(int(roles[role].rows[missing[0]]), sizes)
        (held,) = label_values(splits[split].select([row]), column)
        raise DataError(
            f"{len(missing):,} of {len(found):,} rows for {role} have no label in column {column}; the first "
            f"is row {row} of split {split}, which holds {held!r}{_reason(held)}. Label or remove them, or "
            f"choose other rows with {f'--{role}_split' if 'train' in roles else '--split'}."
        )


def _reason(held: Any) -> str:
    """Why a value counts as no label, where it may surprise."""
    if isinstance(held, list):
        return f" (an item that is {MISSING}, null or blank is missing, so the list is not complete)"
    if held == MISSING:
        return f" ({MISSING} stands for a missing label)"
    if held is None or held != held:  # noqa: PLR0124  NaN
        return " (an empty cell, or a class called NA, None or nan that was not read as text)"
    return ""


def _sorted_names(values: Mapping[str, list[Any]]) -> list[str]:
    """The values that occur in any role, numbers in their order and texts in theirs."""
    found = {item for labels in values.values() for value in labels for item in _as_list(value)}
    return [str(value) for value in sorted(found)]


class _Places(dict[str, int]):
    """Name of a class -> its place; DataError for what is none of them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__((name, number) for number, name in enumerate(names))

    def __missing__(self, name: str) -> int:
        raise DataError(
            f"The label {name!r} is none of the {len(self)} declared classes; {nearest(name, self)}"
        )


def _as_numbers(values: list[Any], names: Sequence[str]) -> NDArray[np.int64]:
    places = _Places(names)
    return np.array([places[str(_as_list(value)[0])] for value in values], dtype=np.int64)


def _as_sets(values: list[Any], names: Sequence[str]) -> NDArray[np.float32]:
    places = _Places(names)
    sets = np.zeros((len(values), len(names)), dtype=np.float32)
    for row, labels in enumerate(values):
        sets[row, [places[str(label)] for label in _as_list(labels)]] = 1
    return sets
