"""The images of a data set without their labels, for prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import DataOptions
from resnet_hub.finetuning.data.columns import find_image_column
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.roles import place_of, resolve_split
from resnet_hub.finetuning.data.sources import open_source


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
    source = open_source(config)
    sizes = {name: len(part) for name, part in source.splits.items()}
    if not sum(sizes.values()):
        raise DataError(f"The data set {source.name} has no rows.")
    named = "+".join(sizes) if split is None else split
    rows = resolve_split(named, sizes, option="--split")
    features = next(iter(source.splits.values())).features
    return DatasetImages(
        ImageColumn.of(source.splits, find_image_column(features, config), source.folders), rows, sizes
    )
