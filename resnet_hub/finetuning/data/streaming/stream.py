"""Training images as a stream: read ahead while others are trained on, at most two blocks in memory."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import DataError, RunError
from resnet_hub.finetuning.batches.sampler import EpochPlan, Share
from resnet_hub.finetuning.data.image_column import read_stored
from resnet_hub.finetuning.data.labels import LabelReader
from resnet_hub.finetuning.data.roles import place_of
from resnet_hub.finetuning.data.streaming.order import EpochOrder, StreamOrder
from resnet_hub.finetuning.data.streaming.shards import Shards, StoredRow
from resnet_hub.images.decoding import BadImageError

T = TypeVar("T")


class StreamedImages(NamedTuple):
    """Some images of a stream on their way to a loader process."""

    numbers: NDArray[np.int64]
    """Rows, counted through all splits of the data set."""
    labels: NDArray[Any]
    """int64 (images,), or float32 (images, classes) of zeros and ones for multi-label data."""
    data: list[bytes]
    """Encoded images."""
    problems: list[str]
    """Why there are no bytes; empty where there are."""


class _Row(NamedTuple):
    number: int
    data: bytes
    problem: str
    label: Any


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

    def batches(self, plan: EpochPlan, share: Share, epoch: int, first_step: int) -> Iterator[StreamedImages]:
        """The micro-batches of a process, in the order of its steps, from `first_step` on.

        A step has the same images on any number of processes that the parts can be shared by. Raises RunError
        where reading fails, or where a row has no label.
        """
        parts = self.order.parts
        first_place = plan.bounds(first_step)[0]
        order = self.order.epoch(epoch)
        lanes = {
            part: _ReadAhead(self._blocks(order, part, len(range(part, first_place, parts))))
            for part in range(share.rank, parts, share.world_size)
        }
        try:
            rows = {
                part: self._shuffled(lane, order, part, len(range(part, first_place, parts)))
                for part, lane in lanes.items()
            }
            for step in range(first_step, plan.steps_per_epoch):
                for micro in range(share.num_micro):
                    places = plan.every_nth(step, share, micro)
                    yield self._together([next(rows[place % parts]) for place in places])
        finally:
            for lane in lanes.values():
                lane.close()

    def first_rows(self, count: int) -> Iterator[StoredRow]:
        """The first rows of the order of epoch 0, as they are stored; nothing is left in memory."""
        order = self.order.epoch(0)
        lanes = [self.shards.rows(order.pieces(part, 0)) for part in range(self.order.parts)]
        return (next(lanes[place % self.order.parts]) for place in range(min(count, len(self))))

    def _blocks(self, order: EpochOrder, part: int, first: int) -> Iterator[list[_Row]]:
        """The rows of each block of a part as they are stored, from the block that holds place `first` on."""
        size = self.order.block_rows
        rows = self.shards.rows(order.pieces(part, first // size * size))
        while block := [self._read(row) for row in islice(rows, size)]:
            yield block

    def _shuffled(
        self, blocks: Iterator[list[_Row]], order: EpochOrder, part: int, first: int
    ) -> Iterator[_Row]:
        """The rows of a part in the order in which they are trained on, from place `first` on."""
        skipped = first % self.order.block_rows
        for drawn in order.blocks(part, first):
            block: list[Any] = next(blocks, [])
            if len(block) != len(drawn):
                raise RunError("The data set has fewer rows than when the run began: its files have changed.")
            for place in drawn[skipped:].tolist():
                yield block[place]
                block[place] = None  # so that its memory is free for the next block
            skipped = 0

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

    def _read(self, row: StoredRow) -> _Row:
        label = self.label(row.number, row.label)
        try:
            return _Row(row.number, read_stored(row.image, self.folders), "", label)
        except BadImageError as error:
            return _Row(row.number, b"", str(error), label)

    @staticmethod
    def _together(rows: list[_Row]) -> StreamedImages:
        return StreamedImages(
            numbers=np.array([row.number for row in rows], dtype=np.int64),
            labels=np.stack([row.label for row in rows]),
            data=[row.data for row in rows],
            problems=[row.problem for row in rows],
        )


class _ReadAhead(Iterator[T], Generic[T]):
    """The items of an iterator, the next one of which a thread makes while the last one is used.

    The thread does not begin an item before the one in front of it was taken: there are at most two.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._made: SimpleQueue[T | BaseException] = SimpleQueue()
        self._wanted = threading.Semaphore(1)
        self._is_closed = False
        # A daemon: a process that ends does not wait for a network that does not answer.
        threading.Thread(target=self._make, daemon=True).start()

    def __next__(self) -> T:
        made = self._made.get()
        self._wanted.release()
        if isinstance(made, StopIteration | RunError):
            raise made
        if isinstance(made, BaseException):
            text = str(made).strip().splitlines()
            raise RunError(
                f"The training images cannot be read any further ({type(made).__name__}: "
                f"{text[0] if text else 'no more is known'}). When they can be, the same command goes on "
                "from the last checkpoint."
            ) from made
        return made

    def close(self) -> None:
        """Make no further items."""
        self._is_closed = True
        self._wanted.release()

    def _make(self) -> None:
        made: Any = None
        while not isinstance(made, BaseException):
            self._wanted.acquire()
            if self._is_closed:
                return
            try:
                made = next(self._items)
            except BaseException as error:  # it is for the thread that waits for the item
                made = error
            self._made.put(made)
