"""Training, with nothing hidden: the steps of an epoch, one step, its gradients."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.engine.deferred_metrics import Measured
from resnet_hub.finetuning.engine.forward import normalized
from resnet_hub.finetuning.engine.optimizer import set_rate
from resnet_hub.finetuning.engine.out_of_memory import help_if_out_of_memory
from resnet_hub.finetuning.engine.stopwatch import BACKWARD, DATA, FORWARD, OPTIMIZER
from resnet_hub.finetuning.engine.trainer import Progress, Trainer
from resnet_hub.finetuning.machine.seeds import random_key

_SMALLEST_SCALE = 2.0**-10  # of fp16's loss; it begins at 2**16


class TrainingDivergedError(RunError):
    """The loss or its gradient is no longer a number."""


def train_steps(
    trainer: Trainer, progress: Progress, steps: Iterable[list[Batch]], *, epoch: int
) -> Iterator[dict[str, Any]]:
    """Train on the given steps of an epoch, yielding measurements after each of them.

    The caller has put the network into training mode, and decides between two steps whether to log, to save
    or to stop. Where steps are read late, the loss is that of the step before, and `settle` reads the rest.
    Raises TrainingDivergedError once a loss or a gradient is no number.
    """
    loss: float | None = None
    started = time.monotonic()
    trainer.stopwatch.start()
    for micro_batches in steps:
        trainer.stopwatch.lap(DATA)
        waited = time.monotonic() - started
        rate = trainer.schedule.rate(progress.step, share_of_time=trainer.share_of_time(progress))
        set_rate(trainer.optimizer, rate)
        with help_if_out_of_memory(num_images=len(micro_batches[0].labels), parts=progress.parts):
            key = (trainer.seed, epoch, progress.step)
            trainer.unread.append(train_step(trainer, progress, micro_batches, key=key))
        progress.step += 1
        # The first step is read at once, so that there is a loss to show from the beginning.
        settle(trainer, progress, but_last=trainer.reads_late and loss is not None)
        loss = progress.recent_losses[-1] if progress.recent_losses else loss
        now = time.monotonic()
        progress.seconds += now - started
        yield {"loss": loss, "learning_rate": rate, "seconds": now - started, "waited_for_data": waited}
        started = time.monotonic()
        trainer.stopwatch.start()


def settle(trainer: Trainer, progress: Progress, *, but_last: bool = False) -> None:
    """Enter measurements of steps into `progress`, of all steps or of all but the last.

    Raises TrainingDivergedError if the loss or the gradient of a step was no number.
    """
    while len(trainer.unread) > but_last:
        measured = trainer.unread.popleft()
        if trainer.reads_late:
            _check(trainer, measured)
        loss, _, num_images = measured.read()
        progress.recent_losses.append(loss)
        progress.images += num_images


def train_step(
    trainer: Trainer, progress: Progress, micro_batches: list[Batch], *, key: tuple[int, int, int]
) -> Measured:
    """Do one optimizer step; returns its measurements over all processes, perhaps still on their way."""
    machine = trainer.machine
    count = float(sum(len(batch.labels) for batch in micro_batches))
    # `full` is computed on the device; `tensor` would copy the number, and wait for the device.
    num_images = machine.total(torch.full((1,), count, device=machine.accelerator.device))
    loss = accumulate_gradients(trainer, micro_batches, key=key, parts=progress.parts, num_images=num_images)
    # Without a limit it only measures; with fp16 it also divides the gradients by the scale of the loss.
    parameters, limit = trainer.model.parameters(), trainer.max_grad_norm
    norm = cast(Tensor, machine.accelerator.clip_grad_norm_(parameters, limit))
    values = torch.cat([machine.total(loss), norm.reshape(1), num_images])
    measured = Measured(key[2], values)
    if not trainer.reads_late:
        _check(trainer, measured)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.stopwatch.lap(OPTIMIZER)
    return measured


def accumulate_gradients(
    trainer: Trainer,
    micro_batches: list[Batch],
    *,
    key: tuple[int, int, int],
    parts: int,
    num_images: Tensor,
    synchronize: bool = True,
) -> Tensor:
    """Add the gradients of a step to those of the weights; returns this process's share of the loss, (1,).

    The loss is summed over images and divided by `num_images`, the images of all processes and micro-batches:
    the gradient is the mean over the global batch however it is split, and uneven splits are exact.
    """
    machine = trainer.machine
    torch.manual_seed(random_key(*key, machine.rank))  # dropout and drop path; crops have their own keys
    total = torch.zeros(1, device=machine.accelerator.device)
    for number, batch in enumerate(micro_batches):
        # Mixed as a whole, so that partners do not depend on the memory of the device.
        images, targets = _to_device(trainer, batch, key=(*key, number))
        # As many pieces on every process, whose batches may differ by an image: SyncBatchNorm waits for all.
        num_pieces = min(parts, len(images))
        pieces = list(zip(images.tensor_split(num_pieces), targets.tensor_split(num_pieces), strict=True))
        for place, (some_images, some_targets) in enumerate(pieces, start=1):
            # DDP exchanges gradients in every backward pass; once, with the last of them, is enough.
            is_last = number == len(micro_batches) - 1 and place == len(pieces)
            exchange = is_last and synchronize
            with nullcontext() if exchange else machine.accelerator.no_sync(trainer.model):
                loss = _loss(trainer, some_images, some_targets) / num_images
                trainer.stopwatch.lap(FORWARD)
                with _statistics_at_rest(trainer.model) if trainer.recomputes else nullcontext():
                    # DDP takes the mean over processes, and the sum is wanted.
                    machine.accelerator.backward(loss.sum() * machine.world_size)
                trainer.stopwatch.lap(BACKWARD)
            total += loss.detach()
    return total


def _to_device(trainer: Trainer, batch: Batch, *, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    images = normalized(batch.images, trainer.preprocessing, trainer.machine)
    targets = trainer.machine.send(batch.labels)
    if trainer.mix is None:
        return images, targets
    generator = torch.Generator().manual_seed(random_key(*key, trainer.machine.rank))
    return trainer.mix(images, targets, generator)


def _loss(trainer: Trainer, images: Tensor, targets: Tensor) -> Tensor:
    """The loss summed over the images, in part the distance from the teacher's answers."""
    network = trainer.model if trainer.compiled is None else trainer.compiled
    logits = network(images).float()
    loss = trainer.loss_function(logits, targets)
    if trainer.distillation is None:
        return loss
    with trainer.machine.accelerator.autocast():
        answers = trainer.distillation.teacher(images)
    return torch.lerp(loss, trainer.distillation.loss(logits, answers), trainer.distillation.weight)


def _check(trainer: Trainer, measured: Measured) -> None:
    """Raise TrainingDivergedError if the loss of a step or its gradient is no number."""
    loss, norm, _ = measured.read()
    if math.isfinite(loss) and _is_usable(norm, trainer.machine.accelerator.scaler):
        return
    raise TrainingDivergedError(
        f"The loss is {loss} and the norm of its gradient {norm} after {measured.step} steps, and "
        f"nothing of that step was saved. Start again with a lower --learning_rate than "
        f"{trainer.optimizer.param_groups[0]['lr']:.2g}, or with --max_grad_norm 1."
    )


def _is_usable(norm: float, scaler: torch.amp.GradScaler | None) -> bool:
    """Whether a gradient of this norm may be used, or is left out by the scaler of fp16.

    With fp16 a gradient overflows now and then; the scaler leaves such a step out and halves its factor. A
    factor that has become tiny shows that the gradient itself is no number.
    """
    return math.isfinite(norm) or (scaler is not None and scaler.get_scale() > _SMALLEST_SCALE)


@contextmanager
def _statistics_at_rest(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm computes as in training and leaves its running statistics alone.

    Where the backward pass computes features again, they would count twice.
    """
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
