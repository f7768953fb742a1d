"""A stream cut into batches: read ahead while others are trained on, at most two blocks in memory."""

import threading
from collections.abc import Iterator
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.sampler import EpochPlan, Share
from resnet_hub.finetuning.data.image_column import read_stored
from resnet_hub.finetuning.data.streaming.order import EpochOrder
from resnet_hub.finetuning.data.streaming.shards import StoredRow
from resnet_hub.finetuning.data.streaming.stream import TrainStream
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


def stream_batches(
    stream: TrainStream, plan: EpochPlan, share: Share, epoch: int, first_step: int
) -> Iterator[StreamedImages]:
    """The micro-batches of a process, in the order of its steps, from `first_step` on.

    A step has the same images on any number of processes that the parts can be shared by. Raises RunError
    where reading fails, or where a row has no label.
    """
    parts = stream.order.parts
    first_place = plan.bounds(first_step)[0]
    order = stream.order.epoch(epoch)
    lanes = {
        part: _ReadAhead(_blocks(stream, order, part, len(range(part, first_place, parts))))
        for part in range(share.rank, parts, share.world_size)
    }
    try:
        rows = {
            part: _shuffled(stream, lane, order, part, len(range(part, first_place, parts)))
            for part, lane in lanes.items()
        }
        for step in range(first_step, plan.steps_per_epoch):
            for micro in range(share.num_micro):
                places = plan.every_nth(step, share, micro)
                yield _together([next(rows[place % parts]) for place in places])
    finally:
        for lane in lanes.values():
            lane.close()


def _blocks(stream: TrainStream, order: EpochOrder, part: int, first: int) -> Iterator[list[_Row]]:
    """The rows of each block of a part as they are stored, from the block that holds place `first` on."""
    size = stream.order.block_rows
    rows = stream.shards.rows(order.pieces(part, first // size * size))
    while block := [_read(stream, row) for row in islice(rows, size)]:
        yield block


def _shuffled(
    stream: TrainStream, blocks: Iterator[list[_Row]], order: EpochOrder, part: int, first: int
) -> Iterator[_Row]:
    """The rows of a part in the order in which they are trained on, from place `first` on."""
    skipped = first % stream.order.block_rows
    for drawn in order.blocks(part, first):
        block: list[Any] = next(blocks, [])
        if len(block) != len(drawn):
            raise RunError("The data set has fewer rows than when the run began: its files have changed.")
        for place in drawn[skipped:].tolist():
            yield block[place]
            block[place] = None  # so that its memory is free for the next block
        skipped = 0


def _read(stream: TrainStream, row: StoredRow) -> _Row:
    label = stream.label(row.number, row.label)
    try:
        return _Row(row.number, read_stored(row.image, stream.folders), "", label)
    except BadImageError as error:
        return _Row(row.number, b"", str(error), label)


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
                f"{text[0] if text else 'no more is known'}). When they can be, the same command resumes "
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
