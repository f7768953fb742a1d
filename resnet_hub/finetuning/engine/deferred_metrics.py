"""Measurements of a step, read while the device computes the next one.

A GPU runs behind the program: asking for the value of a loss waits until everything before it is done, and
then the GPU is idle until the program has launched more. So the values are copied beside the computation and
read one step later. By then NaN may be in the weights: it ends the run all the same, and it reaches no file,
because a checkpoint is written, and an epoch validated, only after `settle`.
"""

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


def can_be_read_late(accelerator: Accelerator) -> bool:
    """Whether the device runs ahead of the program; with fp16 the scaler waits for it after each step."""
    return accelerator.device.type == "cuda" and accelerator.scaler is None
