"""Batches on their way to the device: the same ones for any number of workers and processes.

Images stay uint8; they become float on the device, which moves a quarter of the bytes.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.augment import TrainTransform
from resnet_hub.finetuning.batches.sampler import EpochPlan, Indices, Share, part
from resnet_hub.finetuning.batches.stream_reader import StreamedImages, stream_batches
from resnet_hub.finetuning.batches.worker_processes import LastingLoader, LoaderOptions
from resnet_hub.finetuning.data.streaming.stream import TrainStream
from resnet_hub.finetuning.machine.seeds import keyed_randomness
from resnet_hub.images.decoding import BadImageError, DecodableImage, read_header


class Moment(NamedTuple):
    """When in a run an image is seen: the epoch decides what is drawn, that of the schedule the transform."""

    epoch: int
    schedule_epoch: int


Augment = Callable[[DecodableImage, Moment, int], Tensor]
"""Of an image, the moment and the number of the image."""


class Batch(NamedTuple):
    """Some images of a split; `indices` are their positions in it."""

    images: Tensor  # uint8 (batch, channels, height, width)
    labels: Tensor  # int64 (batch,) or float32 (batch, classes)
    indices: Tensor  # int64 (batch,)
    unreadable: Sequence[tuple[int, str]] = ()
    """Of a stream: rows that were to be among them, each with what is wrong with its image."""


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
        split: LabelledImages | TrainStream,
        transforms: Sequence[TrainTransform],
        plan: EpochPlan,
        *,
        num_micro: int = 1,
        options: LoaderOptions,
    ) -> None:
        """Use one transform for each epoch, the last one for all later epochs too."""
        plan.check_parts(options.world_size, num_micro)
        self.plan = plan
        self._num_micro = num_micro
        share = Share(options.rank, options.world_size, num_micro)
        augment = partial(_augment, transforms, plan.seed)
        images: Dataset[Batch]
        if isinstance(split, TrainStream):
            self._keys = _TrainKeys(partial(stream_batches, split, plan, share), num_micro)
            images = _StreamedTrainImages(split.where, augment)
        else:
            self._keys = _TrainKeys(partial(_batches_by_index, plan, share), num_micro)
            images = _TrainImages(split, augment)
        self._loader: LastingLoader[Batch] = LastingLoader(images, options)

    def epoch(
        self,
        epoch: int,
        first_step: int = 0,
        *,
        num_steps: int | None = None,
        schedule_epoch: int | None = None,
    ) -> Iterator[list[Batch]]:
        """The micro-batches of each step of an epoch, from `first_step` on, of `num_steps` or of all.

        The transform is that of `schedule_epoch`, which is another one where a schedule follows the clock.
        """
        moment = Moment(epoch, epoch if schedule_epoch is None else schedule_epoch)
        there_are = self.plan.steps_per_epoch - first_step
        num_steps = there_are if num_steps is None else min(num_steps, there_are)
        num_batches = num_steps * self._num_micro
        batches = self._loader.batches(
            lambda done: self._keys.of_epoch(moment, first_step, skip=done, until=num_batches)
        )
        try:
            for _ in range(num_steps):
                yield [next(batches) for _ in range(self._num_micro)]
        finally:
            self._keys.close()


class ViewBatches:
    """This process's share of a split, in order, as often as it is asked for.

    Every image is on exactly one process and none is repeated. Shares differ by at most one image, so
    processes may have different numbers of batches, or none. Worker processes start with the first batches
    and are kept for the others.
    """

    def __init__(
        self,
        split: LabelledImages,
        transform: TrainTransform,
        *,
        seeds: Sequence[int] | None = None,
        batch_size: int,
        options: LoaderOptions,
    ) -> None:
        """Look at the images through a transform; one that draws needs `seeds`, one for each image."""
        self._num_images, self._batch_size = len(split.labels), batch_size
        most = -(-self._num_images // (options.world_size * batch_size))
        self._options = replace(options, num_workers=min(options.num_workers, most))
        self._loader: LastingLoader[Batch] = LastingLoader(
            _ViewedImages(split, transform, seeds), self._options
        )

    def __iter__(self) -> Iterator[Batch]:
        """The batches of all images."""
        return self.some(np.arange(self._num_images))

    def some(self, indices: Indices) -> Iterator[Batch]:
        """The batches of the images at some positions, shared as if they were all."""
        share = part(indices, self._options.rank, self._options.world_size)
        keys = [share[start : start + self._batch_size] for start in range(0, len(share), self._batch_size)]
        return self._loader.batches(lambda done: keys[done:])


class _TrainKeys:
    """What the loader asks its data set for: (moment, what is in it) of each micro-batch of an epoch."""

    def __init__(self, batches: Callable[[int, int], Iterator[Any]], num_micro: int) -> None:
        """`batches(epoch, step)` gives what is in the micro-batches from a step on."""
        self._batches, self._num_micro = batches, num_micro
        self._left: Iterator[Any] = iter(())

    def of_epoch(
        self, moment: Moment, first_step: int, *, skip: int, until: int
    ) -> Iterator[tuple[Moment, Any]]:
        """The keys of the micro-batches from a step on, from number `skip` to before number `until` of them.

        What reads ahead gets none that are not wanted.
        """
        self.close()
        steps, micros = divmod(skip, self._num_micro)
        self._left = self._batches(moment.epoch, first_step + steps)
        return ((moment, batch) for batch in islice(self._left, micros, micros + until - skip))

    def close(self) -> None:
        """End the last iterator, which may be reading ahead; a loader with workers holds on to it."""
        if isinstance(self._left, Generator):
            self._left.close()


def _batches_by_index(plan: EpochPlan, share: Share, epoch: int, first_step: int) -> Iterator[Indices]:
    for step in range(first_step, plan.steps_per_epoch):
        for micro in range(share.num_micro):
            yield plan.batch(
                epoch,
                step,
                rank=share.rank,
                world_size=share.world_size,
                micro=micro,
                num_micro=share.num_micro,
            )


def _augment(
    transforms: Sequence[TrainTransform], seed: int, encoded: DecodableImage, moment: Moment, index: int
) -> Tensor:
    with keyed_randomness(seed, moment.epoch, index):
        return transforms[min(moment.schedule_epoch, len(transforms) - 1)](encoded)


class _TrainImages(Dataset[Batch]):
    """Whole augmented batches by (moment, indices)."""

    def __init__(self, split: LabelledImages, augment: Augment) -> None:
        self._split, self._augment = split, augment

    def __getitems__(self, key: tuple[Moment, Indices]) -> Batch:
        moment, indices = key
        images = [
            self._augment(encoded, moment, int(index))
            for index, encoded in zip(indices, self._split.encoded(indices), strict=True)
        ]
        return _batch(self._split, images, indices)


class _StreamedTrainImages(Dataset[Batch]):
    """Whole augmented batches by (moment, images of a stream); those that cannot be used are left out."""

    def __init__(self, where: Callable[[int], tuple[str, int]], augment: Augment) -> None:
        self._where, self._augment = where, augment

    def __getitems__(self, key: tuple[Moment, StreamedImages]) -> Batch:
        moment, streamed = key
        images: dict[int, Tensor] = {}
        unreadable: list[tuple[int, str]] = []
        rows = zip(streamed.numbers.tolist(), streamed.data, streamed.problems, strict=True)
        for place, (number, data, problem) in enumerate(rows):
            try:
                if problem:
                    raise BadImageError(problem)
                images[place] = self._augment(read_header(data), moment, number)
            except BadImageError as error:
                unreadable.append((number, str(error)))
        if not images:
            listed = "; ".join("{} row {}: {}".format(*self._where(row), text) for row, text in unreadable)
            raise RunError(f"None of the images of a batch can be used: {listed}. Repair or remove them.")
        places = np.array(list(images))
        return Batch(
            _stacked(list(images.values())),
            torch.from_numpy(streamed.labels[places]),
            torch.from_numpy(streamed.numbers[places]),
            tuple(unreadable),
        )


class _ViewedImages(Dataset[Batch]):
    """Whole batches by indices, each image always the same."""

    def __init__(self, split: LabelledImages, transform: TrainTransform, seeds: Sequence[int] | None) -> None:
        self._split, self._transform, self._seeds = split, transform, seeds

    def __getitems__(self, indices: Indices) -> Batch:
        images = [
            self._view(encoded, int(index))
            for index, encoded in zip(indices, self._split.encoded(indices), strict=True)
        ]
        return _batch(self._split, images, indices)

    def _view(self, encoded: DecodableImage, index: int) -> Tensor:
        if self._seeds is None:
            return self._transform(encoded)
        with keyed_randomness(self._seeds[index]):
            return self._transform(encoded)


def _batch(split: LabelledImages, images: list[Tensor], indices: Indices) -> Batch:
    return Batch(_stacked(images), torch.from_numpy(split.labels[indices]), torch.from_numpy(indices.copy()))


def _stacked(images: list[Tensor]) -> Tensor:
    """The images with the channels last, as decoders leave them and as the network takes them."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
