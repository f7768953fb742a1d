"""A device whose memory is too small: what says so, evaluation in halves, and advice to a user."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from resnet_hub.errors import RunError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device's memory did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, Exception) and should_reduce_batch_size(error)
    )


def give_back_memory() -> None:
    """Let the device have what torch keeps for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`compute(images)`, in halves, and halves of these, where the device's memory does not suffice.

    For evaluation, in which images do not know of each other and processes do not speak.
    """
    try:
        return compute(images)
    except RuntimeError as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    give_back_memory()  # outside of the handler, which still holds what was computed
    return torch.cat([in_halves(compute, half) for half in images.tensor_split(2)])


@contextmanager
def help_if_out_of_memory(*, num_images: int, parts: int) -> Iterator[None]:
    """Inside, an error of a device that is out of memory becomes a RunError that says what to type next."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        fewer = max(1, num_images // (2 * parts))
        raise RunError(
            f"Out of device memory with {num_images // parts} images, although earlier steps fit. Rerun the "
            f"same command to resume from the last checkpoint; to need less memory for the same steps, add "
            f"--per_device_train_batch_size {fewer} and --images_per_step as in config.yaml, or "
            f"--gradient_checkpointing."
        ) from error
