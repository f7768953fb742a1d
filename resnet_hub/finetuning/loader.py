"""Batches on their way to the device: the same ones for any number of workers and processes.

Images stay uint8; they become float on the device, which moves a quarter of the bytes.
"""

import atexit
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from resnet_hub.finetuning.augment import TrainTransform, keyed_randomness
from resnet_hub.finetuning.sampler import EpochPlan, Indices, part
from resnet_hub.images import DecodableImage
from resnet_hub.preprocessing import Preprocessing

_PREFETCH = 4  # batches that each worker reads ahead; enough to ride out an epoch's largest images


class Batch(NamedTuple):
    """Some images of a split; `indices` are their positions in it."""

    images: Tensor  # uint8 (batch, channels, height, width)
    labels: Tensor  # int64 (batch,) or float32 (batch, classes)
    indices: Tensor  # int64 (batch,)


class LabelledImages(Protocol):
    """What batches are made from: a `Split`, or anything with its two parts."""

    @property
    def labels(self) -> np.ndarray:
        """int64 (images,) or float32 (images, classes)."""
        ...

    def encoded(self, indices: Indices) -> Iterator[DecodableImage]:
        """The images at these positions, one after the other, their headers read."""
        ...


@dataclass(frozen=True)
class CopiedImages:
    """The same images several times over: copy c of image i has the index i + c * (number of images)."""

    images: LabelledImages
    copies: int

    @property
    def labels(self) -> np.ndarray:
        """Those of the images, once for each copy."""
        return self._labels

    @cached_property
    def _labels(self) -> np.ndarray:
        return np.concatenate([self.images.labels] * self.copies)

    def encoded(self, indices: Indices) -> Iterator[DecodableImage]:
        """The images that these are copies of."""
        return self.images.encoded(indices % len(self.images.labels))


class TrainBatches:
    """The steps of training. Worker processes start with the first epoch and are kept for the others."""

    def __init__(
        self,
        split: LabelledImages,
        transforms: Sequence[TrainTransform],
        plan: EpochPlan,
        *,
        rank: int,
        world_size: int,
        num_micro: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        """Use one transform for each epoch, the last one for all later epochs too."""
        plan.check_parts(world_size, num_micro)
        self.plan = plan
        self._num_micro = num_micro
        self._keys = _TrainKeys(plan=plan, rank=rank, world_size=world_size, num_micro=num_micro)
        images = _TrainImages(split, transforms, seed=plan.seed)
        self._loader = _make_loader(images, self._keys, num_workers=num_workers, pin_memory=pin_memory)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[list[Batch]]:
        """The micro-batches of each step of an epoch, from `first_step` on."""
        self._keys.epoch, self._keys.first_step = epoch, first_step
        batches = iter(self._loader)
        for _ in range(first_step, self.plan.steps_per_epoch):
            yield [next(batches) for _ in range(self._num_micro)]


def evaluation_batches(
    split: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    rank: int,
    world_size: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """This process's share of a split, in order; every image is on exactly one process and none is repeated.

    Shares differ by at most one image, so processes may have different numbers of batches, or none.
    """
    share = part(np.arange(len(split.labels)), rank, world_size)
    keys = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
    images = _EvaluationImages(split, preprocessing)
    return iter(_make_loader(images, keys, num_workers=min(num_workers, len(keys)), pin_memory=pin_memory))


@dataclass(kw_only=True)
class _TrainKeys:
    """What the loader asks its data set for: (epoch, indices) of each micro-batch of the set epoch."""

    plan: EpochPlan
    rank: int
    world_size: int
    num_micro: int
    epoch: int = 0
    first_step: int = 0

    def __iter__(self) -> Iterator[tuple[int, Indices]]:
        for step in range(self.first_step, self.plan.steps_per_epoch):
            for micro in range(self.num_micro):
                yield (
                    self.epoch,
                    self.plan.batch(
                        self.epoch,
                        step,
                        rank=self.rank,
                        world_size=self.world_size,
                        micro=micro,
                        num_micro=self.num_micro,
                    ),
                )


class _TrainImages(Dataset[Batch]):
    """Whole augmented batches by (epoch, indices)."""

    def __init__(self, split: LabelledImages, transforms: Sequence[TrainTransform], *, seed: int) -> None:
        self._split, self._transforms, self._seed = split, transforms, seed

    def __getitems__(self, key: tuple[int, Indices]) -> Batch:
        epoch, indices = key
        images = [
            self._augment(encoded, epoch, int(index))
            for index, encoded in zip(indices, self._split.encoded(indices), strict=True)
        ]
        return _batch(self._split, images, indices)

    def _augment(self, encoded: DecodableImage, epoch: int, index: int) -> Tensor:
        with keyed_randomness(self._seed, epoch, index):
            return self._transforms[min(epoch, len(self._transforms) - 1)](encoded)


class _EvaluationImages(Dataset[Batch]):
    """Whole batches by indices, as evaluation sees them."""

    def __init__(self, split: LabelledImages, preprocessing: Preprocessing) -> None:
        self._split, self._preprocessing = split, preprocessing

    def __getitems__(self, indices: Indices) -> Batch:
        mode = self._preprocessing.mode
        images = [self._preprocessing(encoded.decode(mode)) for encoded in self._split.encoded(indices)]
        return _batch(self._split, images, indices)


def _batch(split: LabelledImages, images: list[Tensor], indices: Indices) -> Batch:
    # Stacked with the channels last, as decoders leave them and as the network takes them: nothing is moved.
    pixels = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return Batch(pixels, torch.from_numpy(split.labels[indices]), torch.from_numpy(indices.copy()))


def _make_loader(
    images: Dataset[Batch], keys: Any, *, num_workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    """A loader whose data set answers each key with a whole batch."""
    return DataLoader(
        images,
        batch_sampler=keys,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        prefetch_factor=_PREFETCH if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=partial(_leave_signals_to_parent, _parent_exits()) if num_workers else None,
        # A generator of its own: otherwise making an iterator would draw from the training's.
        generator=torch.Generator(),
    )


def _as_it_is(batch: Any) -> Batch:
    return batch


@cache
def _parent_exits() -> Tensor:
    """One byte shared with all workers, set when this process begins to exit."""
    flag = torch.zeros(1, dtype=torch.uint8).share_memory_()
    atexit.register(flag.fill_, 1)
    return flag


def _leave_signals_to_parent(parent_exits: Tensor, worker: int) -> None:
    """Let preemption be handled by the main process: a worker that died of it would take the last step along.

    Python ends its children with SIGTERM when it exits, and waits for them; that one they obey.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0) if parent_exits.item() else None)
