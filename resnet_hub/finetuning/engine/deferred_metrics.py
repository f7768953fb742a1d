"""Measurements of a step, read while the device computes the next one.

A GPU runs behind the program: asking for the value of a loss waits until everything before it is done, and
then the GPU is idle until the program has launched more. So the values are copied beside the computation and
read one step later. By then NaN would be in the weights, and perhaps in a checkpoint: the optimizer itself
has to leave out such a step on the device, and a checkpoint is written only after `settle`.

This rests on `found_inf`, the attribute through which torch's GradScaler tells this to optimizers that update
all parameters in one call. In a release of torch without it a diverged step would spoil the weights; the
tests of this module would show it.
"""

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
        self._arrival = torch.cuda.Event() if values.is_cuda else None
        if self._arrival is not None:
            self._arrival.record()

    def read(self) -> tuple[float, float, int]:
        """The three, once they are here."""
        if self._arrival is not None:
            self._arrival.synchronize()
        loss, norm, num_images = self._values.tolist()
        return loss, norm, int(num_images)


def can_be_read_late(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> bool:
    """Whether the device runs ahead and can leave out a step itself; with fp16 the scaler asks after each."""
    return (
        accelerator.device.type == "cuda"
        and accelerator.scaler is None
        and getattr(_unwrapped(optimizer), "_step_supports_amp_scaling", False)
    )


@contextmanager
def left_out_unless_finite(optimizer: torch.optim.Optimizer, values: Tensor) -> Iterator[None]:
    """Inside, a step of the optimizer changes nothing if one of the `values` on the device is no number."""
    inner = _unwrapped(optimizer)
    inner.found_inf = 1.0 - values.isfinite().all().float()
    try:
        yield
    finally:
        del inner.found_inf


def _unwrapped(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
