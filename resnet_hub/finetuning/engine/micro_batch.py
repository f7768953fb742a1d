"""Micro-batches that fit into the device's memory: tried out before the first step of each kind.

A step that is larger than memory is computed in parts, and its images stay the same. Memory that becomes
scarcer later ends the run with advice (`out_of_memory.help_if_out_of_memory`), and the same command resumes.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resnet_hub.errors import RunError
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.engine.out_of_memory import give_back_memory, is_out_of_memory
from resnet_hub.finetuning.engine.step import accumulate_gradients
from resnet_hub.finetuning.engine.stopwatch import DATA
from resnet_hub.finetuning.engine.trainer import Progress, Trainer

logger = logging.getLogger(__name__)


def steps_that_fit(
    trainer: Trainer, progress: Progress, steps: Iterable[list[Batch]], *, epoch: int
) -> Iterator[list[Batch]]:
    """The same steps; `progress.parts` grows before a step of a new kind that does not fit into memory.

    Image size and number of learning weights decide how much memory a step takes.
    """
    for micro_batches in steps:
        num_learning = sum(parameter.requires_grad for parameter in trainer.model.parameters())
        kind = micro_batches[0].images.shape[1:], num_learning
        if trainer.known_to_fit is not None and kind not in trainer.known_to_fit:
            trainer.stopwatch.lap(DATA)
            _find_parts(trainer, progress, micro_batches, key=(trainer.seed, epoch, progress.step))
            trainer.known_to_fit.add(kind)
            trainer.stopwatch.start()
        yield micro_batches


def _find_parts(
    trainer: Trainer, progress: Progress, micro_batches: list[Batch], *, key: tuple[int, int, int]
) -> None:
    """Find the number of parts in which a step fits on every process, by doing it without an update.

    Raises RunError if not even single images fit.
    """
    # Compiling would count BatchNorm at rest as another network, and what is compiled needs no more memory.
    plain = replace(trainer, compiled=None)
    before, agree_any = progress.parts, trainer.machine.agree_any
    fewest = min(len(batch.labels) for batch in micro_batches)
    most = -int(trainer.machine.largest(-fewest))

    def attempt() -> None:
        ones = torch.ones(1, device=trainer.machine.accelerator.device)
        accumulate_gradients(
            plain, micro_batches, key=key, parts=progress.parts, num_images=ones, synchronize=False
        )

    with _norms_at_rest(trainer.model):
        # Every process attempts the same numbers and hears of the others' failures in between, so none waits
        # for one that ran out of memory.
        while agree_any(not _fits(attempt, trainer.optimizer)):
            if progress.parts >= most:
                raise RunError(
                    "A single image does not fit into device memory. Use a smaller --image_size, "
                    "--gradient_checkpointing or a smaller model."
                )
            progress.parts = min(2 * progress.parts, most)
    if progress.parts > before:
        logger.warning(
            "%d images do not fit into device memory at once: a micro-batch is now done in %d parts. "
            "The images of a step stay the same; BatchNorm sees smaller batches.",
            len(micro_batches[0].labels),
            progress.parts,
        )


def _fits(attempt: Callable[[], None], optimizer: torch.optim.Optimizer) -> bool:
    room: list[Tensor] = []
    try:
        room += _room_for_state(optimizer)
        attempt()
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        logger.debug("out of memory: %s", error)
    finally:
        optimizer.zero_grad(set_to_none=True)
        room.clear()
    give_back_memory()  # outside of the handler, which still holds what the attempt had computed
    return False


def _room_for_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """As much memory as the optimizer will take at its first step: two numbers a parameter, as Adam keeps."""
    if optimizer.state:
        return []
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [torch.empty_like(parameter) for parameter in parameters for _ in range(2)]


@contextmanager
def _norms_at_rest(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm neither changes its running statistics nor speaks with other processes."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
