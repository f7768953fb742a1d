"""One split of a data set: labelled images in a fixed order."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.inspection import Inspection
from resnet_hub.images.decoding import ColorMode, DecodableImage
from resnet_hub.images.preprocessing import Preprocessing


class KeptImages(Protocol):
    """What keeps decoded images in memory; loading knows how, a split only asks."""

    def images(self, column: ImageColumn, rows: NDArray[np.int64]) -> Iterator[DecodableImage]:
        """The images in these rows of the column, one after the other."""
        ...

    def has_all(self, rows: NDArray[np.int64], view: Preprocessing) -> bool:
        """Whether nothing has to be decoded for this view of these rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images with labels, in a fixed order; positions in it are what samplers and metrics call an index."""

    name: str
    how: str
    """How it came about: `test of the data set`, `15% of train, stratified, seed 0`."""
    labels: NDArray[Any]
    """int64 (images,), or float32 (images, classes) of zeros and ones for multi-label data."""
    rows: NDArray[np.int64]
    """Row of each image, counted through all splits of the source."""
    images: ImageColumn
    seen: Inspection
    """Size, kind and digest of each image."""
    kept: KeptImages | None = None
    """Where what is decoded of these images is kept in memory."""

    def take(self, positions: NDArray[Any], *, name: str, how: str) -> "Split":
        """A split of some of the images."""
        return replace(
            self,
            name=name,
            how=how,
            labels=self.labels[positions],
            rows=self.rows[positions],
            seen=self.seen.take(positions),
        )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def encoded(self, indices: NDArray[np.int64]) -> Iterator[DecodableImage]:
        """The images at these positions, one after the other, not yet decoded."""
        rows = self.rows[indices]
        return self.images.encoded(rows) if self.kept is None else self.kept.images(self.images, rows)

    def image(self, index: int, mode: ColorMode = "RGB") -> Image.Image:
        """The upright image at a position."""
        return next(self.encoded(np.array([index]))).decode(mode)
