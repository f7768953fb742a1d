"""The classes of a data set among those of a model: by their names, or as ImageNet numbers them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from timm.data import ImageNetInfo

from resnet_hub.errors import DataError, nearest, some_of

_IMAGENET_CLASSES = 1000
_AGREEMENT = 0.95  # share of ImageNet's names that a list in its order has, spellings differ


def match_classes(data_names: Sequence[str], model_names: Sequence[str]) -> NDArray[np.int64]:
    """For each class of the data set its number among the model's.

    Classes are matched by name, whatever their order, and the model may know more. For a model of ImageNet-1k
    names of synsets do (n01440764), and so do 1000 names, or numbers, in ImageNet's own order.

    Raises DataError with the classes that the model does not have.
    """
    places = {name: number for number, name in enumerate(model_names)}
    if all(name in places for name in data_names):
        return np.array([places[name] for name in data_names], dtype=np.int64)
    if (as_imagenet := _as_imagenet(data_names, model_names)) is not None:
        return as_imagenet
    missing = [name for name in data_names if name not in places]
    raise DataError(
        f"The model does not know {len(missing)} of the {len(data_names)} classes of the data set: "
        f"{some_of([repr(name) for name in missing])}. For {missing[0]!r}: "
        f"{nearest(missing[0], model_names)} Rename the classes of the data set, or choose the model that "
        "was trained on them."
    )


def _as_imagenet(data_names: Sequence[str], model_names: Sequence[str]) -> NDArray[np.int64] | None:
    """The numbers of ImageNet-1k's classes, if model and data set have those."""
    info = ImageNetInfo("imagenet-1k")
    descriptions = [str(info.index_to_description(number)) for number in range(_IMAGENET_CLASSES)]
    if list(model_names) != descriptions:
        return None
    synsets = {name: number for number, name in enumerate(info.label_names())}
    if all(name in synsets for name in data_names):
        return np.array([synsets[name] for name in data_names], dtype=np.int64)
    in_order = np.arange(_IMAGENET_CLASSES, dtype=np.int64)
    if set(data_names) == {str(number) for number in in_order}:
        return np.array([int(name) for name in data_names], dtype=np.int64)
    if len(data_names) != _IMAGENET_CLASSES:
        return None
    agreeing = sum(
        bool(_words(name) & _words(wanted)) for name, wanted in zip(data_names, descriptions, strict=True)
    )
    return in_order if agreeing >= _AGREEMENT * _IMAGENET_CLASSES else None


def _words(name: str) -> set[str]:
    """The synonyms that a name lists, without what makes `crane2` another name than `crane`."""
    return {word.strip().lower().replace("_", " ").rstrip("0123456789") for word in name.split(",")}
