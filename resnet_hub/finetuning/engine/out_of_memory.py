"""A step that does not fit into the device's memory is done in smaller parts, and stays the same step."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resnet_hub.errors import RunError

logger = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def find_parts(
    attempt: Callable[[int], None], *, parts: int, most: int, agree_any: Callable[[bool], bool]
) -> int:
    """The smallest number of parts, doubling from `parts`, in which `attempt` fits on every process.

    Every process attempts the same numbers and hears of the others' failures in between, so none waits for
    one that ran out of memory. Raises RunError if not even single images fit (`most` parts).
    """
    while agree_any(not _fits(attempt, parts)):
        if parts >= most:
            raise RunError(
                "The device's memory does not suffice for a single image. Use a smaller --image_size, "
                "--gradient_checkpointing or a smaller model."
            )
        parts = min(2 * parts, most)
    return parts


class KeptStatistics:
    """BatchNorm's running statistics as they were before a step, so that it can be done again."""

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, _NormBase)]
        self._now = [buffer for norm in norms for buffer in norm.buffers()]
        self._kept = [buffer.clone() for buffer in self._now]

    def keep(self) -> None:
        """Remember what they are."""
        if self._now:
            torch._foreach_copy_(self._kept, self._now)  # a call for all: they are many and small

    def restore(self) -> None:
        """Make them what they were."""
        if self._now:
            torch._foreach_copy_(self._now, self._kept)


def in_halves(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`compute(images)`, in halves, and halves of these, where the device's memory does not suffice.

    For evaluation, in which images do not know of each other and processes do not speak.
    """
    try:
        return compute(images)
    except RuntimeError as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    _give_back_memory()  # outside of the handler, which still holds what was computed
    return torch.cat([in_halves(compute, half) for half in images.tensor_split(2)])


@contextmanager
def help_if_out_of_memory(*, num_images: int, parts: int) -> Iterator[None]:
    """Inside, an error of a device that is out of memory becomes one that says what to type next."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fewer = max(1, num_images // (2 * parts))
        raise RunError(
            f"The device's memory did not suffice for {num_images // parts} images at once, though it had "
            f"before. The same command goes on from the last checkpoint; with --per_device_train_batch_size "
            f"{fewer}, and --images_per_step as in config.yaml, or with --gradient_checkpointing, it needs "
            f"less, and the steps stay the same."
        ) from error


@contextmanager
def norms_at_rest(network: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm neither changes its running statistics nor speaks with other processes."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


@contextmanager
def statistics_at_rest(network: nn.Module) -> Iterator[None]:
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


def room_for_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """As much memory as the optimizer will take at its first step: two numbers a parameter, as Adam keeps."""
    if optimizer.state:
        return []
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [torch.empty_like(parameter) for parameter in parameters for _ in range(2)]


def _fits(attempt: Callable[[int], None], parts: int) -> bool:
    try:
        attempt(parts)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        logger.debug("%d parts do not fit: %s", parts, error)
    else:
        return True
    _give_back_memory()  # outside of the handler, which still holds what the attempt had computed
    return False


def _give_back_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
