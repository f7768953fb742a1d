"""Which images form which step: a pure function of (seed, epoch, step), equal on any number of processes.

Nothing here has a state, so a run can start at any step and two machines never have to agree on anything.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_hub.errors import ConfigError

Indices = NDArray[np.int64]


class Share(NamedTuple):
    """Which part of each step a process has, and in how many micro-batches."""

    rank: int
    world_size: int
    num_micro: int


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How an epoch is cut into global batches of nearly equal size, each image in exactly one of them.

    With several `copies`, copy c of image i has the index i + c * num_images, and an epoch has the copies of
    the first of its images, as many indices as there are images.

    There are ceil(num_images / global_batch_size) batches and their sizes differ by at most one: no image is
    dropped or repeated, and no small remainder gets the weight of a whole step.
    """

    num_images: int
    global_batch_size: int
    """Images per optimizer step: per_device_batch * processes * micro-batches."""
    seed: int
    shuffle: bool = True
    copies: int = 1
    """How often an image comes in its step; an epoch then has as many steps and fewer images."""

    def __post_init__(self) -> None:
        """Refuse plans without a single step."""
        if self.num_images < 1 or self.global_batch_size < 1:
            raise ConfigError(
                f"An epoch of {self.num_images} images in batches of {self.global_batch_size} has no step."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of optimizer steps in which each image is seen once."""
        return -(-self.num_images // self.global_batch_size)

    def order(self, epoch: int) -> Indices:
        """The indices of this epoch, 0..num_images-1 each once, in an order that depends on (seed, epoch)."""
        images = _order(self.num_images, self.seed, epoch, self.shuffle)
        if self.copies == 1:
            return images
        each = images[: -(-self.num_images // self.copies), None] + self.num_images * np.arange(self.copies)
        return each.ravel()[: self.num_images]

    def global_batch(self, epoch: int, step: int) -> Indices:
        """The images of one optimizer step over all processes and micro-batches."""
        start, stop = self.bounds(step)
        batch = self.order(epoch)[start:stop]
        if self.copies == 1:
            return batch
        # Copy by copy, so that an image is not mixed with itself, and its copies are on several processes.
        return batch[np.argsort(batch // self.num_images, kind="stable")]

    def bounds(self, step: int) -> tuple[int, int]:
        """The first place of an epoch that belongs to a step, and the first behind it."""
        assert 0 <= step < self.steps_per_epoch, f"step {step} of {self.steps_per_epoch}"
        return bounds(self.num_images, step, self.steps_per_epoch)

    def every_nth(self, step: int, share: Share, micro: int) -> range:
        """The places of one micro-batch on one process, where process r has those that are r modulo all.

        What `batch` is for images that can be had in any order; this is for a stream.
        """
        start, stop = self.bounds(step)
        first = start + (share.rank - start) % share.world_size
        mine = range(first, stop, share.world_size)
        return mine[slice(*bounds(len(mine), micro, share.num_micro))]

    def batch(
        self, epoch: int, step: int, *, rank: int, world_size: int, micro: int, num_micro: int
    ) -> Indices:
        """The images of one micro-batch on one process.

        The parts of all micro-batches and processes, put together, are the global batch of that step, so a
        step sees the same images on any number of processes.
        """
        assert 0 <= rank < world_size, f"rank {rank} of {world_size}"
        assert 0 <= micro < num_micro, f"micro-batch {micro} of {num_micro}"
        return part(self.global_batch(epoch, step), micro * world_size + rank, num_micro * world_size)

    def fewest_in_batch(self, world_size: int, num_micro: int) -> int:
        """Images that the smallest micro-batch of a process has."""
        return self.num_images // self.steps_per_epoch // (world_size * num_micro)

    def check_parts(self, world_size: int, num_micro: int) -> None:
        """Raise ConfigError if some process would get an empty micro-batch."""
        parts = world_size * num_micro
        smallest = self.num_images // self.steps_per_epoch
        if smallest < parts:
            raise ConfigError(
                f"{self.num_images} training images make steps of {smallest}, too few for {world_size} "
                f"processes with {num_micro} micro-batches each. Use fewer processes, a smaller "
                "--gradient_accumulation_steps or a larger --per_device_train_batch_size."
            )


def part(indices: Indices, number: int, count: int) -> Indices:
    """Part `number` of `count` consecutive parts whose sizes differ by at most one (as numpy.array_split)."""
    return indices[slice(*bounds(len(indices), number, count))]


def bounds(length: int, number: int, count: int) -> tuple[int, int]:
    """Where part `number` of `count` consecutive parts begins and ends; sizes differ by at most one."""
    size, larger = divmod(length, count)
    start = number * size + min(number, larger)
    return start, start + size + (number < larger)


@lru_cache(maxsize=2)  # this epoch and, for loaders that read ahead, the next
def _order(num_images: int, seed: int, epoch: int, shuffle: bool) -> Indices:
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(num_images) if shuffle else np.arange(num_images)
    order.flags.writeable = False
    return order
