"""What the network makes of a split: each image once, however many processes share the work."""

from collections.abc import Iterator
from itertools import islice

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from resnet_hub.finetuning.augment import EvaluationTransform
from resnet_hub.finetuning.data import Split
from resnet_hub.finetuning.keys import random_key
from resnet_hub.finetuning.loader import Batch, TrainBatches, evaluation_batches
from resnet_hub.finetuning.loop import compute_split, normalized
from resnet_hub.finetuning.preparation import Run
from resnet_hub.finetuning.state import Training, save
from resnet_hub.finetuning.stopwatch import EVALUATION

_MOST_KEPT_BYTES = 1_000_000_000  # of validation images in memory, per process; 6,600 images of 224 px


def evaluate(
    run: Run, training: Training, split: Split, network: nn.Module, *, full_precision: bool = False
) -> Tensor:
    """Logits (images, classes) of a split in its order; raises Preempted, after saving, when asked."""
    stopwatch = training.trainer.stopwatch
    stopwatch.start()
    network.eval()
    if run.machine.world_size > 1 and not run.machine.sync_batchnorm:
        for buffer in network.buffers():  # each process has running statistics of its own
            broadcast(buffer)
    # The last evaluation has the best weights in the network; the checkpoint of the last epoch is there.
    before_stop = None if full_precision else lambda: save(run, training, must=True)
    logits = compute_split(
        network,
        _batches(run, training, split),
        num_outputs=len(run.data.class_names),
        num_images=len(split),
        batch_size=_batch_size(run),
        preprocessing=run.preprocessing,
        machine=run.machine,
        between_batches=lambda: run.stop_if_asked(before_stop),
        full_precision=full_precision,
    )
    stopwatch.lap(EVALUATION)
    return logits


@torch.no_grad()
def reestimate_batchnorm(run: Run, training: Training, network: nn.Module, *, epoch: int) -> None:
    """Replace BatchNorm's running statistics by those of training images as evaluation sees them.

    Averaged weights never produced the statistics that they were averaged with (Izmailov et al. 2018,
    arXiv:1803.05407, section 3.2), and random crops show objects larger than evaluation does (Touvron et al.
    2019, arXiv:1906.06423). The images are the first of the order of `epoch`, the same on every start.
    """
    assert run.config.reestimate_batchnorm is not None
    num_steps = -(-run.config.reestimate_batchnorm // run.plan.global_batch_size)
    batches = TrainBatches(
        run.data.train,
        [EvaluationTransform(run.preprocessing)],
        run.plan,
        rank=run.machine.rank,
        world_size=run.machine.world_size,
        num_micro=run.config.gradient_accumulation_steps,
        num_workers=min(run.num_workers, num_steps),
        pin_memory=False,
        wait_seconds=run.config.ddp_timeout,
    )
    steps = islice(batches.epoch(epoch), num_steps)
    images = (normalized(batch.images, run.preprocessing, run.machine) for step in steps for batch in step)
    torch.manual_seed(random_key(run.config.seed, epoch, run.machine.rank))  # drop path is on in this pass
    with run.machine.accelerator.autocast():
        update_bn(images, network)


def validation_batches(run: Run, split: Split, *, num_workers: int) -> Iterator[Batch]:
    """This process's share of a split, in order."""
    return evaluation_batches(
        split,
        run.preprocessing,
        batch_size=_batch_size(run),
        rank=run.machine.rank,
        world_size=run.machine.world_size,
        num_workers=num_workers,
        pin_memory=run.machine.accelerator.device.type == "cuda",
        wait_seconds=run.config.ddp_timeout,
    )


def _batches(run: Run, training: Training, split: Split) -> Iterator[Batch]:
    """This process's share of a split; validation images are decoded once and then kept, if they fit.

    They are the same at each epoch. At 12 megapixels decoding one takes as long as training on several.
    """
    size, channels = run.preprocessing.image_size, run.preprocessing.num_channels
    share = -(-len(split) // run.machine.world_size)
    fits = share * channels * size[0] * size[1] <= _MOST_KEPT_BYTES
    if split is run.data.validation and training.validation_batches:
        yield from training.validation_batches
        return
    seen = []
    for batch in validation_batches(run, split, num_workers=run.num_workers):
        if split is run.data.validation and fits:
            seen.append(batch)
        yield batch
    training.validation_batches = training.validation_batches or seen


def _batch_size(run: Run) -> int:
    assert run.config.per_device_eval_batch_size is not None
    return run.config.per_device_eval_batch_size
