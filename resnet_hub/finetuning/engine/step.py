"""Training, with nothing hidden: a function for the steps of an epoch, one for a step, one for gradients."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.engine.deferred_metrics import Measured, left_out_unless_finite
from resnet_hub.finetuning.engine.forward import normalized
from resnet_hub.finetuning.engine.losses import LossFunction
from resnet_hub.finetuning.engine.optimizer import Schedule, set_rate
from resnet_hub.finetuning.engine.out_of_memory import (
    KeptStatistics,
    find_parts,
    help_if_out_of_memory,
    norms_at_rest,
    room_for_state,
    statistics_at_rest,
)
from resnet_hub.finetuning.engine.stopwatch import BACKWARD, DATA, FORWARD, OPTIMIZER, Stopwatch
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.finetuning.machine.seeds import random_key
from resnet_hub.images.preprocessing import Preprocessing

logger = logging.getLogger(__name__)

_SMALLEST_SCALE = 2.0**-10  # of fp16's loss; it begins at 2**16

Mixer = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class TrainingDivergedError(RunError):
    """The loss or its gradient is no longer a number."""


@dataclass(kw_only=True)
class Progress:
    """How far a run is; the part of its state that is not tensors."""

    step: int = 0
    """Optimizer steps done."""
    fc_is_fitted: bool = False
    is_over: bool = False
    """All steps are done, or the time is used up; a resumed run goes straight to its report."""
    evaluated_epochs: int = 0
    averaged_epochs: int = 0
    """Epochs that the average over epochs has taken in, or passed over because they come too early."""
    seconds: float = 0.0
    """Wall time of training and validation, over all starts of the run."""
    seconds_before_steps: float = 0.0
    """How many of them had passed when the first step began."""
    schedule_epoch: int = 0
    """The epoch that the schedule is at: the epoch itself, or a later one where time runs faster."""
    images: int = 0
    best_score: float = -math.inf
    """By the metric that the best weights are chosen by; higher is better."""
    best_loss: float = math.inf
    best_epoch: int = 0
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last event, so that a resumed run logs what an uninterrupted one does."""
    parts: int = 1
    """Parts that each micro-batch is computed in, because as a whole it did not fit into memory."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Row -> what is wrong with its image, of the training images that a stream has left out so far."""
    station_seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went on this process, over all starts of the run: see `stopwatch.STATIONS`."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a training step works with."""

    model: nn.Module
    """As accelerate prepared it."""
    compiled: Callable[[Tensor], Tensor] | None = None
    """The same network, compiled, for the steps of training."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss_function: LossFunction
    preprocessing: Preprocessing
    machine: Machine
    stopwatch: Stopwatch
    seed: int
    max_grad_norm: float | None = None
    max_seconds: float | None = None
    mix: Mixer | None = None
    ask_teacher: Callable[[Tensor], Tensor] | None = None
    """Logits (batch, classes) of the network that this one learns from."""
    distillation_weight: float = 0.0
    distillation_loss: LossFunction | None = None
    reads_late: bool = False
    """Whether what a step measured is read when the next one is under way: see `measured.py`."""
    unread: deque[Measured] = field(default_factory=deque)
    """What was measured and not read yet."""
    recomputes: bool = False
    """Whether the backward pass computes features again (gradient checkpointing)."""
    finds_parts: bool = False
    """Whether a step of a new kind is tried out before it is done; for devices that run out of memory."""
    tried: set[tuple[torch.Size, int]] = field(default_factory=set)
    """Images, (channels, height, width), and number of weights that learn, that are known to fit."""
    statistics: KeptStatistics | None = None
    """For a step that is done again because memory has become scarcer; None where it cannot be."""

    def share_of_time(self, progress: Progress) -> float:
        """Part of the time limit for steps that is used up, the same on every process; 0 without a limit.

        What came before the first step, as fitting fc, is not theirs: the schedule begins with them.
        """
        if self.max_seconds is None:
            return 0.0
        left = self.max_seconds - progress.seconds_before_steps
        share = (progress.seconds - progress.seconds_before_steps) / left if left > 0 else 1.0
        return self.machine.largest(share)


def train_steps(
    trainer: Trainer, progress: Progress, steps: Iterable[list[Batch]], *, epoch: int
) -> Iterator[dict[str, Any]]:
    """Train on the given steps of an epoch, yielding what was measured after each of them.

    The caller has put the network into training, and decides between two steps whether to log, to save or to
    stop. The loss is that of the step before where steps are read late, and `settle` reads the rest. Raises
    TrainingDivergedError, and leaves out the update, if it would put NaN into the weights.
    """
    loss: float | None = None
    started = time.monotonic()
    trainer.stopwatch.start()
    for micro_batches in steps:
        trainer.stopwatch.lap(DATA)
        waited = time.monotonic() - started
        key = (trainer.seed, epoch, progress.step)
        if trainer.finds_parts and _kind(trainer, micro_batches) not in trainer.tried:
            _make_it_fit(trainer, progress, micro_batches, key=key)
        rate = trainer.schedule.rate(progress.step, share_of_time=trainer.share_of_time(progress))
        set_rate(trainer.optimizer, rate)
        with help_if_out_of_memory(num_images=len(micro_batches[0].labels), parts=progress.parts):
            measured = train_step(trainer, progress, micro_batches, key=key)
        trainer.unread.append(measured)
        progress.step += 1
        settle(trainer, progress, but_last=trainer.reads_late and loss is not None)
        loss = progress.recent_losses[-1] if progress.recent_losses else loss
        now = time.monotonic()
        progress.seconds += now - started
        yield {"loss": loss, "learning_rate": rate, "seconds": now - started, "waited_for_data": waited}
        started = time.monotonic()
        trainer.stopwatch.start()


def settle(trainer: Trainer, progress: Progress, *, but_last: bool = False) -> None:
    """Enter into `progress` what steps have measured, if asked without the last one.

    Raises TrainingDivergedError if the loss or the gradient of one was no number.
    """
    while len(trainer.unread) > but_last:
        measured = trainer.unread.popleft()
        loss, norm, num_images = measured.read()
        if trainer.reads_late:
            _check(trainer, measured.step, loss=loss, norm=norm)
        progress.recent_losses.append(loss)
        progress.images += num_images


def train_step(
    trainer: Trainer, progress: Progress, micro_batches: list[Batch], *, key: tuple[int, int, int]
) -> Measured:
    """Do one optimizer step; returns what it measured over all processes, which may still be on its way.

    The loss is the sum over this process's images divided by the images of all processes and micro-batches,
    so that the gradient is the mean over the global batch however it is split, and uneven splits are exact.
    """
    machine = trainer.machine
    device = machine.accelerator.device
    counts = torch.full((1,), float(sum(len(batch.labels) for batch in micro_batches)), device=device)
    num_images = machine.total(counts)
    total = _accumulate_in_parts_that_fit(trainer, progress, micro_batches, key=key, num_images=num_images)
    clipped_to = trainer.max_grad_norm or math.inf
    norm = cast(Tensor, machine.accelerator.clip_grad_norm_(trainer.model.parameters(), clipped_to))
    values = torch.cat([machine.total(total), norm.reshape(1), num_images])
    measured = Measured(key[2], values)
    if not trainer.reads_late:
        loss, norm_here, _ = measured.read()
        _check(trainer, measured.step, loss=loss, norm=norm_here)
    with left_out_unless_finite(trainer.optimizer, values) if trainer.reads_late else nullcontext():
        trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.stopwatch.lap(OPTIMIZER)
    return measured


def _accumulate_in_parts_that_fit(
    trainer: Trainer,
    progress: Progress,
    micro_batches: list[Batch],
    *,
    key: tuple[int, int, int],
    num_images: Tensor,
) -> Tensor:
    """What `accumulate_gradients` returns; in more parts, from now on, if memory does not suffice any more.

    For one process, which can begin the step again: of several the others would wait for its gradients.
    """
    if trainer.statistics is None:
        return accumulate_gradients(
            trainer, micro_batches, key=key, parts=progress.parts, num_images=num_images
        )
    total, before = torch.zeros(1), progress.parts
    trainer.statistics.keep()

    def attempt(parts: int) -> None:
        nonlocal total
        if parts > before:
            assert trainer.statistics is not None
            trainer.statistics.restore()
            trainer.optimizer.zero_grad(set_to_none=True)
        total = accumulate_gradients(trainer, micro_batches, key=key, parts=parts, num_images=num_images)

    most = min(len(batch.labels) for batch in micro_batches)
    progress.parts = find_parts(attempt, parts=before, most=most, agree_any=bool)
    _say_parts(progress, micro_batches, before=before)
    return total


def _check(trainer: Trainer, step: int, *, loss: float, norm: float) -> None:
    if math.isfinite(loss) and _is_usable(norm, trainer.machine.accelerator.scaler):
        return
    raise TrainingDivergedError(
        f"The loss is {loss} and the norm of its gradient {norm} after {step} steps; the weights were not "
        f"updated with it. Start again with a lower --learning_rate than "
        f"{trainer.optimizer.param_groups[0]['lr']:.2g}, or with --max_grad_norm 1."
    )


def _is_usable(norm: float, scaler: torch.amp.GradScaler | None) -> bool:
    """Whether a gradient of this norm may be used, or is left out by the scaler of fp16.

    With fp16 a gradient overflows now and then; the scaler leaves such a step out and halves its factor. One
    that has become tiny says that the gradient itself is no number.
    """
    return math.isfinite(norm) or (scaler is not None and scaler.get_scale() > _SMALLEST_SCALE)


def accumulate_gradients(
    trainer: Trainer,
    micro_batches: list[Batch],
    *,
    key: tuple[int, int, int],
    parts: int,
    num_images: Tensor,
    synchronise: bool = True,
) -> Tensor:
    """Add the gradients of a step to those of the weights; returns this process's share of the loss, (1,).

    Each micro-batch is mixed as a whole and computed in so many `parts`. Gradients are exchanged between the
    processes with the last part, if at all.
    """
    machine = trainer.machine
    torch.manual_seed(random_key(*key, machine.rank))  # dropout and drop path; crops have their own keys
    total = torch.zeros(1, device=machine.accelerator.device)
    for number, batch in enumerate(micro_batches):
        images, targets = _to_device(trainer, batch, key=(*key, number))
        # As many on every process, whose micro-batches may differ by an image: SyncBatchNorm waits for all.
        num_pieces = min(parts, len(images))
        pieces = list(zip(images.tensor_split(num_pieces), targets.tensor_split(num_pieces), strict=True))
        for place, (some_images, some_targets) in enumerate(pieces, start=1):
            is_last = number == len(micro_batches) - 1 and place == len(pieces)
            exchange = (
                nullcontext() if is_last and synchronise else machine.accelerator.no_sync(trainer.model)
            )
            with exchange:
                loss = _loss(trainer, some_images, some_targets) / num_images
                trainer.stopwatch.lap(FORWARD)
                with statistics_at_rest(trainer.model) if trainer.recomputes else nullcontext():
                    machine.accelerator.backward(loss.sum() * machine.world_size)
                trainer.stopwatch.lap(BACKWARD)
            total += loss.detach()
    return total


def _loss(trainer: Trainer, images: Tensor, targets: Tensor) -> Tensor:
    """The loss summed over the images, in part that of not answering as the teacher does."""
    network = trainer.model if trainer.compiled is None else trainer.compiled
    logits = network(images).float()
    loss = trainer.loss_function(logits, targets)
    if trainer.ask_teacher is None or trainer.distillation_loss is None:
        return loss
    with trainer.machine.accelerator.autocast():
        answers = trainer.ask_teacher(images)
    return torch.lerp(loss, trainer.distillation_loss(logits, answers), trainer.distillation_weight)


def _kind(trainer: Trainer, micro_batches: list[Batch]) -> tuple[torch.Size, int]:
    """What decides how much memory a step takes."""
    num_learning = sum(parameter.requires_grad for parameter in trainer.model.parameters())
    return micro_batches[0].images.shape[1:], num_learning


def _make_it_fit(
    trainer: Trainer, progress: Progress, micro_batches: list[Batch], *, key: tuple[int, int, int]
) -> None:
    """Find the number of parts in which a step fits on every process, by doing it without an update."""
    model, optimizer = trainer.model, trainer.optimizer
    # Compiling would count BatchNorm at rest as another network, and what is compiled needs no more memory.
    plain = replace(trainer, compiled=None)

    def attempt(parts: int) -> None:
        ones = torch.ones(1, device=trainer.machine.accelerator.device)
        room = room_for_state(optimizer)
        try:
            accumulate_gradients(
                plain, micro_batches, key=key, parts=parts, num_images=ones, synchronise=False
            )
        finally:
            optimizer.zero_grad(set_to_none=True)
            room.clear()

    before = progress.parts
    with norms_at_rest(model):
        progress.parts = find_parts(
            attempt,
            parts=before,
            most=-int(trainer.machine.largest(-min(len(batch.labels) for batch in micro_batches))),
            agree_any=trainer.machine.agree_any,
        )
    trainer.tried.add(_kind(trainer, micro_batches))
    trainer.stopwatch.start()
    _say_parts(progress, micro_batches, before=before)


def _say_parts(progress: Progress, micro_batches: list[Batch], *, before: int) -> None:
    if progress.parts > before:
        logger.warning(
            "%d images do not fit into the device's memory at once: a micro-batch is now done in %d parts. "
            "The images of a step stay the same; BatchNorm sees smaller batches.",
            len(micro_batches[0].labels),
            progress.parts,
        )


def _to_device(trainer: Trainer, batch: Batch, *, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    images = normalized(batch.images, trainer.preprocessing, trainer.machine)
    targets = trainer.machine.send(batch.labels)
    if trainer.mix is None:
        return images, targets
    generator = torch.Generator().manual_seed(random_key(*key, trainer.machine.rank))
    return trainer.mix(images, targets, generator)
