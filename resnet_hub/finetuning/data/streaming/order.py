"""The order of a stream: a function of (seed, epoch) that can be entered anywhere and needs little memory.

The shards of an epoch, in an order drawn from (seed, epoch), make one long line of rows. The line is cut into
`parts` of equal length that are read side by side. Within a part, blocks of consecutive rows are permuted, by
(seed, epoch, part, block). Place p of the epoch belongs to part p mod parts, so that every step takes equally
much from each part, and a process that reads some of the parts has its share of every step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnet_hub.finetuning.data.streaming.shards import Piece


@dataclass(frozen=True, kw_only=True)
class StreamOrder:
    """How the rows of a stream are ordered in each epoch; every row once."""

    pieces: NDArray[np.int64]
    """The shards, or parts of shards, that the stream is made of: (pieces, 4), in the fields of `Piece`."""
    seed: int
    parts: int
    """Parts that are read side by side, by one process or several."""
    block_rows: int
    """Rows that are permuted among themselves, and in memory, of each part."""

    @property
    def num_rows(self) -> int:
        """Rows in an epoch."""
        return int((self.pieces[:, 2] - self.pieces[:, 1]).sum())

    def epoch(self, epoch: int) -> "EpochOrder":
        """The order of one epoch."""
        return EpochOrder(self, epoch)


class EpochOrder:
    """The order of the rows of one epoch."""

    def __init__(self, order: StreamOrder, epoch: int) -> None:
        """Draw the order of the shards; what is kept is as large as their list."""
        self._order, self._epoch = order, epoch
        drawn = np.random.default_rng((order.seed, epoch)).permutation(len(order.pieces))
        self._pieces = order.pieces[drawn]
        self._ends = np.cumsum(self._pieces[:, 2] - self._pieces[:, 1])
        self._lengths = [len(range(part, order.num_rows, order.parts)) for part in range(order.parts)]

    def pieces(self, part: int, first: int) -> Iterator[Piece]:
        """What a part is read from, in order, from its row `first` on."""
        start = sum(self._lengths[:part]) + first
        stop = sum(self._lengths[: part + 1])
        place = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            piece, end = Piece(*self._pieces[place].tolist()), int(self._ends[place])
            skipped = start - (end - (piece.stop - piece.start))
            left_out = max(0, end - stop)
            yield Piece(piece.shard, piece.start + skipped, piece.stop - left_out, piece.number + skipped)
            start, place = end, place + 1

    def blocks(self, part: int, first: int) -> Iterator[NDArray[np.int64]]:
        """For each block of a part, from the one that holds place `first` on, the order of its rows."""
        size = self._order.block_rows
        for block in range(first // size, -(-self._lengths[part] // size)):
            rows = min(size, self._lengths[part] - block * size)
            yield np.random.default_rng((self._order.seed, self._epoch, part, block)).permutation(rows)


def pieces_of(rows: NDArray[np.int64], sizes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """The pieces of shards of these sizes that hold these rows, in the order of `rows`; (pieces, 4).

    Args:
        rows: Row numbers, counted through all shards; few runs of consecutive ones.
        sizes: Rows of each shard.
    """
    ends = np.cumsum(sizes)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    runs = zip([0, *breaks], [*breaks, len(rows)], strict=True)
    return np.concatenate([_pieces_of_run(int(rows[a]), int(rows[b - 1]) + 1, ends) for a, b in runs])


def _pieces_of_run(start: int, stop: int, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pieces of the shards that end at `ends` that hold the rows from `start` to before `stop`."""
    shards = np.arange(np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop) + 1)
    begins = np.where(shards > 0, ends[shards - 1], 0)
    first = np.maximum(begins, start)
    last = np.minimum(ends[shards], stop)
    pieces = np.stack([shards, first - begins, last - begins, first], axis=1)
    return pieces[last > first]
