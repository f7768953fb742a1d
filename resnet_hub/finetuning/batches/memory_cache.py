"""Images as evaluation sees them, kept in memory: what is the same each time is decoded once in a run.

Those are validation images, and training images from which a random crop is taken only after evaluation's
resizing. What is kept has the pixels that decoding would give, so a run does not depend on it.
"""

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.images.decoding import ColorMode, DecodableImage, Pixels
from resnet_hub.images.preprocessing import Preprocessing

Rows = NDArray[np.int64]


class KeptViews:
    """Pixels by row of the data set, filled by whoever decodes an image first.

    This process and the loader processes that are forked from it share them. A process that is started in
    another way keeps nothing and decodes.
    """

    def __init__(self, rows: Rows, views: Sequence[Preprocessing]) -> None:
        """Keep these rows as each of `views` sees them; memory is taken as it is filled."""
        self._rows = np.sort(rows)
        self._shelves = {view: _Shelf(len(rows), view) for view in views}

    @staticmethod
    def num_bytes(num_images: int, views: Sequence[Preprocessing]) -> int:
        """What so many images take when all of them are kept."""
        return num_images * sum(math.prod(_shape(view)) + 1 for view in views)

    def images(self, column: ImageColumn, rows: Rows) -> Iterator["KeptImage"]:
        """The images in these rows of the column, one after the other."""
        batch = _Batch(column, rows)
        places = np.searchsorted(self._rows, rows).tolist()
        return (KeptImage(self._shelves, place, batch, number) for number, place in enumerate(places))

    def has_all(self, rows: Rows, view: Preprocessing) -> bool:
        """Whether nothing has to be decoded for this view of these rows."""
        shelf = self._shelves.get(view)
        return shelf is not None and bool(shelf.is_filled[np.searchsorted(self._rows, rows)].all())

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory, which cannot be sent."""
        return {"_rows": self._rows, "_shelves": {}}


@dataclass(frozen=True)
class KeptImage:
    """A `DecodableImage` that is read and decoded only where its pixels are not kept."""

    shelves: Mapping[Preprocessing, "_Shelf"]
    place: int
    batch: "_Batch"
    number: int

    @cached_property
    def _encoded(self) -> DecodableImage:
        return self.batch.read(self.number)

    @property
    def width(self) -> int:
        """Of the upright image as it came, in pixels."""
        return self._encoded.width

    @property
    def height(self) -> int:
        """Of the upright image as it came, in pixels."""
        return self._encoded.height

    def pixels(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Pixels:
        """Upright pixels, uint8 (height, width, channels), perhaps of a smaller version of the image."""
        return self._encoded.pixels(mode, at_least=at_least)

    def decode(self, mode: ColorMode = "RGB") -> Image.Image:
        """The same as a PIL image."""
        return self._encoded.decode(mode)

    def evaluated(self, view: Preprocessing) -> Tensor:
        """What `view` makes of it, uint8 (channels, height, width), not to be written to."""
        shelf = self.shelves.get(view)
        if shelf is None:
            return view(self.decode(view.mode))
        if not shelf.is_filled[self.place]:
            shelf.fill(self.place, view(self.decode(view.mode)))
        return torch.from_numpy(shelf.pixels[self.place]).permute(2, 0, 1)


def evaluated(image: DecodableImage, view: Preprocessing) -> Tensor:
    """What `view` makes of an image, uint8 (channels, height, width), not to be written to."""
    return image.evaluated(view) if isinstance(image, KeptImage) else view(image.decode(view.mode))


@dataclass(frozen=True)
class _Batch:
    """Rows that are found in the table together, and only if one of them is needed."""

    column: ImageColumn
    rows: Rows

    @cached_property
    def _values(self) -> pa.ChunkedArray:
        return self.column.values(self.rows)

    def read(self, number: int) -> DecodableImage:
        return self.column.open(self._values[number].as_py())


class _Shelf:
    """Memory for one view of every image, and whether it is there."""

    def __init__(self, num_images: int, view: Preprocessing) -> None:
        shape = _shape(view)
        # Anonymous and shared: loader processes see it, and no /dev/shm has to be large enough for it.
        self.pixels = np.frombuffer(mmap.mmap(-1, num_images * math.prod(shape)), np.uint8)
        self.pixels = self.pixels.reshape(num_images, *shape)
        self.is_filled = np.frombuffer(mmap.mmap(-1, num_images), np.bool_)

    def fill(self, place: int, pixels: Tensor) -> None:
        self.pixels[place] = pixels.permute(1, 2, 0).numpy()
        self.is_filled[place] = True  # after the pixels: another process may look at any time


def _shape(view: Preprocessing) -> tuple[int, int, int]:
    height, width = view.image_size
    return height, width, view.num_channels
