"""What steps measure, read while the device computes the next one, so that it never waits for the program."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


class Measured:
    """Loss, norm of the gradient and number of images of a step, on their way from the device."""

    def __init__(self, step: int, values: Tensor) -> None:
        """Begin to fetch the `values`, (3,), of a step, counted from 0."""
        self.step = step
        self._values = values.to("cpu", non_blocking=True)
        self._arrival: Any = None
        if values.is_cuda:
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    def read(self) -> tuple[float, float, int]:
        """The three, once they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        loss, norm, num_images = self._values.tolist()
        return loss, norm, int(num_images)


def can_be_read_late(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> bool:
    """Whether the device itself can leave out a step that must not be done, and is one that runs ahead.

    torch's optimizers can that walk all parameters in one call. With fp16 the scaler asks after every step.
    """
    return (
        accelerator.device.type == "cuda"
        and accelerator.scaler is None
        and getattr(_inner(optimizer), "_step_supports_amp_scaling", False)
    )


@contextmanager
def left_out_unless_finite(optimizer: torch.optim.Optimizer, values: Tensor) -> Iterator[None]:
    """Inside, a step of the optimizer changes nothing if one of the `values` on the device is no number.

    torch's GradScaler tells its optimizers so with the same attribute.
    """
    inner = _inner(optimizer)
    inner.found_inf = 1.0 - values.isfinite().all().float()
    try:
        yield
    finally:
        del inner.found_inf


def _inner(optimizer: Any) -> Any:
    """The optimizer itself, without the wrapping of accelerate."""
    return getattr(optimizer, "optimizer", optimizer)
