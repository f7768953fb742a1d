"""Training images as a stream: where its rows are, in which order they come, and what their labels mean."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_hub.errors import DataError, RunError
from resnet_hub.finetuning.data.labels import LabelReader
from resnet_hub.finetuning.data.roles import place_of
from resnet_hub.finetuning.data.streaming.order import StreamOrder
from resnet_hub.finetuning.data.streaming.shards import Shards, StoredRow


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The training split as a stream. Its labels come with its images and are not known before."""

    name: str
    how: str
    """How it came about: `train of the data set`."""
    shards: Shards
    folders: tuple[Path, ...]
    """Where rows may name files."""
    labels: LabelReader
    split_sizes: dict[str, int]
    """Rows of each split of the data set, to say where a row is."""
    order: StreamOrder

    def __len__(self) -> int:
        """Number of images, unreadable ones among them."""
        return self.order.num_rows

    def ordered(self, *, parts: int, buffer: int) -> "TrainStream":
        """The stream in the order of so many parts, with so many images in memory to be shuffled."""
        block_rows = max(1, buffer // parts)
        return replace(self, order=replace(self.order, parts=parts, block_rows=block_rows))

    def where(self, number: int) -> tuple[str, int]:
        """Split of the data set, and row in it, of a row counted through all splits."""
        return place_of(number, self.split_sizes)

    def first_rows(self, count: int) -> Iterator[StoredRow]:
        """The first rows of the order of epoch 0, as they are stored; nothing is left in memory."""
        order = self.order.epoch(0)
        lanes = [self.shards.rows(order.pieces(part, 0)) for part in range(self.order.parts)]
        return (next(lanes[place % self.order.parts]) for place in range(min(count, len(self))))

    def label(self, number: int, value: Any) -> NDArray[Any]:
        """The label of a row, of what its column holds; RunError, with the row, if there is no such class."""
        try:
            return self.labels.one(value)
        except DataError as error:
            split, row = self.where(number)
            raise RunError(
                f"Row {row} of split {split} cannot be trained on: {error} Repair or remove it; what is "
                "changed is another data set and needs another --output_dir."
            ) from error
