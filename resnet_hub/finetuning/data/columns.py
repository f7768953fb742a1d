"""Which column holds the images and which the labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

import datasets
from datasets import ClassLabel, Features, LargeList, List, Value

from resnet_hub.errors import DataError, nearest
from resnet_hub.finetuning.config.options import DataOptions

# Names by which a column is chosen among several of the right type, the usual one first.
_IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "png", "pixel_values")
_LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "target",
    "category",
    "categories",
    "classes",
    "tags",
    "fine_label",
    "cls",
    "cls.txt",
)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The two columns that matter."""

    image: str
    label: str
    """A field of a column of records is `column.field`, as WebDataset's `json.label`."""


def find_columns(features: Features, config: DataOptions) -> Columns:
    """The image and the label column: as the options say, else by type, else by name.

    Raises DataError with the candidates when there is none or more than one.
    """
    image = find_image_column(features, config)
    others = {name: feature for name, feature in features.items() if name != image}
    fields = _fields_of(others)
    known = Features(features | fields)
    classes = [name for name, feature in others.items() if _is_class(feature)]
    readable = [
        name for name, feature in others.items() if _is_readable(feature) and not name.startswith("__")
    ]
    named = [name for name in readable if name.lower() in _LABEL_NAMES]
    named_fields = [name for name in fields if name.rpartition(".")[2].lower() in _LABEL_NAMES]
    label = _choose_column(
        "label",
        config.label_column_name,
        known,
        fitting=classes or named or named_fields or (readable if len(readable) == 1 else []),
        usual=_LABEL_NAMES,
    )
    if not _is_readable(known[label]):
        raise DataError(
            f"--label_column_name {label}: the column holds {_kind(known[label])}, which cannot be "
            "classes; they can be ClassLabel, text, whole numbers, true/false, or lists of these."
        )
    if label not in features and config.streaming:
        raise DataError(
            f"The labels are in the field {label} of a column of records, which --streaming does not read. "
            "Make it a column of its own, or leave out --streaming."
        )
    return Columns(image=image, label=label)


def find_image_column(features: Features, config: DataOptions) -> str:
    """The image column: as the option says, else by type, else by name; DataError if there is no one such."""
    image = _choose_column(
        "image",
        config.image_column_name,
        features,
        fitting=[name for name, feature in features.items() if is_image(feature)],
        usual=_IMAGE_NAMES,
    )
    if not is_image(features[image]):
        raise DataError(
            f"--image_column_name {image}: the column holds {_kind(features[image])} and not images. "
            "Addresses and paths are not followed; put the images themselves into the data set."
        )
    return image


def is_label_name(name: str) -> bool:
    """Whether a column of this name usually holds labels."""
    return name.lower() in _LABEL_NAMES


def is_image(feature: Any) -> bool:
    """Whether a column of this type holds encoded images: Image, bytes, or a struct with bytes."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Image) or (
        isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
    )


def label_feature(features: Features, column: str) -> Any:
    """The type of a column, or of a field `column.field` of one; None if there is no such column."""
    return features.get(column, _fields_of(features).get(column))


def label_values(split: datasets.Dataset, column: str) -> list[Any]:
    """What a column, or a field `column.field` of one, holds in each row; None everywhere without it."""
    whole, _, field = (column, "", "") if column in split.column_names else column.partition(".")
    if whole not in split.column_names:
        return [None] * len(split)
    table: Any = split.select_columns([whole]).with_format("arrow")[:]
    values = table.column(0).to_pylist()
    return [value and value.get(field) for value in values] if field else values


def item_type(feature: Any) -> Any:
    """The type of one label: that of the column, or of the items of its lists."""
    return feature.feature if isinstance(feature, List | LargeList) else feature


def _choose_column(
    what: str, asked: str | None, features: Features, *, fitting: list[str], usual: tuple[str, ...]
) -> str:
    """The column that was asked for, or the only fitting one, or the only one of them with a usual name."""
    option = f"--{what}_column_name"
    if asked is not None:
        if asked not in features:
            raise DataError(f"{option} {asked}: there is no such column; {nearest(asked, features)}")
        return asked
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        others = [name for name, kind in features.items() if _is_readable(kind) and name[:2] != "__"]
        if what == "label" and len(others) > 1:
            raise DataError(
                f"No column is called {', '.join(usual[:3])} or alike. The columns are "
                f"{_table_of(features)}; choose the one with the labels, such as {option} {quote(others[0])}."
            )
        folders = " In a folder of images, each class is a folder, or a metadata.csv has the labels."
        raise DataError(
            f"No column holds {what}s. The columns are {_table_of(features)}. Name the right one with "
            f"{option}.{folders if what == 'label' else ''}"
        )
    named = [name for name in fitting if name.lower() in usual]
    if len(named) == 1:
        return named[0]
    raise DataError(
        f"Several columns could hold {what}s: {', '.join(fitting)}. Choose with {option} {fitting[0]}."
    )


def _fields_of(features: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of columns of records that could hold labels, as `column.field`."""
    return {
        f"{name}.{field}": kind
        for name, feature in features.items()
        if isinstance(feature, dict) and not is_image(feature)
        for field, kind in feature.items()
        if _is_readable(kind)
    }


def _is_class(feature: Any) -> bool:
    return isinstance(item_type(feature), ClassLabel)


def _is_readable(feature: Any) -> bool:
    inner = item_type(feature)
    if isinstance(inner, ClassLabel):
        return True
    return isinstance(inner, Value) and inner.dtype.startswith(
        ("int", "uint", "bool", "string", "large_string", "float")
    )


def _kind(feature: Any) -> str:
    if isinstance(feature, List | LargeList):
        return f"lists of {_kind(feature.feature)}"
    if isinstance(feature, dict):
        return "images" if is_image(feature) else f"records of {', '.join(feature)}"
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _table_of(features: Features) -> str:
    return ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
