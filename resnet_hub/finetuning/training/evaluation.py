"""What the network makes of a split: each image once, however many processes share the work."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from timm.utils import distribute_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_hub.finetuning.batches.augment import EvaluationTransform
from resnet_hub.finetuning.batches.loader import Batch, TrainBatches, ViewBatches
from resnet_hub.finetuning.batches.sampler import part
from resnet_hub.finetuning.data.load import Split
from resnet_hub.finetuning.engine.forward import compute_split, normalized
from resnet_hub.finetuning.engine.stopwatch import EVALUATION
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.finetuning.machine.seeds import random_key
from resnet_hub.finetuning.network.freezing import num_frozen_stages, set_modes
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.state import Training, save

_STATISTICS_WORKERS = 4


def evaluate(
    run: Run, training: Training, split: Split, network: nn.Module, *, full_precision: bool = False
) -> Tensor:
    """Logits (images, classes) of a split in its order; raises Preempted, after saving, when asked."""
    stopwatch = training.trainer.stopwatch
    stopwatch.start()
    network.eval()
    share_statistics(run, network)
    # The last evaluation has the best weights in the network; the checkpoint of the last epoch is there.
    before_stop = None if full_precision else lambda: save(run, training, must=True)
    logits = compute_split(
        network,
        _batches(run, split),
        num_outputs=len(run.data.class_names),
        num_images=len(split),
        batch_size=run.settings.schedule.per_device_eval_batch_size,
        preprocessing=run.preprocessing,
        machine=run.machine,
        between_batches=lambda: run.stop_if_asked(before_stop),
        full_precision=full_precision,
    )
    stopwatch.lap(EVALUATION)
    return logits


def share_statistics(run: Run, network: nn.Module) -> None:
    """Give all processes BatchNorm's running statistics of the first, where each has its own."""
    if run.machine.world_size > 1 and not run.machine.sync_batchnorm:
        distribute_bn(network, run.machine.world_size)


@torch.no_grad()
def reestimate_batchnorm(
    run: Run,
    network: nn.Module,
    *,
    epoch: int,
    schedule_epoch: int,
    num_images: int,
    before_stop: Callable[[], None] | None = None,
) -> None:
    """Replace BatchNorm's running statistics by those of training images as evaluation sees them.

    Averaged weights never produced the statistics that they were averaged with (Izmailov et al. 2018,
    arXiv:1803.05407, section 3.2), and random crops show objects larger than evaluation does (Touvron et al.
    2019, arXiv:1906.06423). The images are the first of the order of `epoch`, the same on every start. Stages
    that are frozen in `schedule_epoch` keep theirs. Raises Preempted when asked to stop, after `before_stop`.
    """
    set_modes(network, num_frozen_stages(run.settings.freezing, network, schedule_epoch))
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    if not norms:
        return
    num_steps = -(-num_images // run.plan.global_batch_size)
    loader = run.loaders.of("statistics", lambda: _plain_train_batches(run, num_steps))
    steps = loader.epoch(epoch, num_steps=num_steps)
    images = (normalized(batch.images, run.preprocessing, run.machine) for step in steps for batch in step)
    torch.manual_seed(random_key(run.settings.seed, epoch, run.machine.rank))  # drop path is on in this pass
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    with run.machine.accelerator.autocast():
        for batch in images:
            network(batch)
            run.stop_if_asked(before_stop)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if run.machine.world_size > 1 and not run.machine.sync_batchnorm:
        _take_mean_of_processes(run.machine, norms)


def _take_mean_of_processes(machine: Machine, norms: list[_BatchNorm]) -> None:
    """Give all processes the mean of their statistics, in one exchange: each has seen its own images only."""
    statistics = cast(
        list[Tensor], [each for norm in norms for each in (norm.running_mean, norm.running_var)]
    )
    means = machine.total(torch.cat(statistics)) / machine.world_size
    torch._foreach_copy_(statistics, means.split([len(tensor) for tensor in statistics]))


def _plain_train_batches(run: Run, num_steps: int) -> TrainBatches:
    """Training images as evaluation sees them; a few processes load the few steps of them."""
    num_workers = min(run.loading.num_workers, num_steps, _STATISTICS_WORKERS)
    return TrainBatches(
        run.data.train,
        [EvaluationTransform(run.preprocessing)],
        replace(run.plan, copies=1),
        num_micro=run.settings.schedule.gradient_accumulation_steps,
        options=replace(run.loading, num_workers=num_workers),
    )


def _batches(run: Run, split: Split) -> Iterable[Batch]:
    """A split, by loader processes that are kept until nothing is left for them to decode."""
    if _is_kept(run, split):
        run.loaders.end(split.name)
        return validation_batches(run, split, num_workers=0)
    return run.loaders.of(
        split.name, lambda: validation_batches(run, split, num_workers=run.loading.num_workers)
    )


def validation_batches(run: Run, split: Split, *, num_workers: int) -> ViewBatches:
    """This process's share of a split, in order."""
    return ViewBatches(
        split,
        EvaluationTransform(run.preprocessing),
        batch_size=run.settings.schedule.per_device_eval_batch_size,
        options=replace(run.loading, num_workers=num_workers),
    )


def _is_kept(run: Run, split: Split) -> bool:
    """Whether this process's share of a split is in memory, and loader processes would have nothing to do."""
    share = part(split.rows, run.machine.rank, run.machine.world_size)
    return split.kept is not None and split.kept.has_all(share, run.preprocessing)
