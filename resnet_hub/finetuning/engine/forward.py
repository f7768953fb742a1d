"""What a network makes of images: of a batch on its device, and of a split that several processes share."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.engine.out_of_memory import in_halves
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.images.preprocessing import Preprocessing

_MOST_ON_DEVICE = 2**28  # numbers: a gigabyte


def normalized(images: Tensor, preprocessing: Preprocessing, machine: Machine) -> Tensor:
    """The images as the network takes them, on its device, from uint8."""
    return preprocessing.normalize(machine.send(images)).contiguous(memory_format=machine.memory_format)


@torch.inference_mode()
def compute_split(
    compute: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    *,
    num_outputs: int,
    num_images: int,
    batch_size: int,
    preprocessing: Preprocessing,
    machine: Machine,
    between_batches: Callable[[], None],
    full_precision: bool = False,
) -> Tensor:
    """What `compute` makes of each image of a split, (images, outputs) in its order, float32 on the CPU.

    The result is the same on every process. Each image is computed once, on one process, and none is padded:
    processes may have different numbers of images, and the results are put at their places by index.
    `between_batches` is called equally often on every process, so it may ask the others. With
    `full_precision` the network computes in float32 whatever the run's precision is.
    """
    device = machine.accelerator.device
    # Where they wait for the end; of many classes they are gigabytes, which a device may not have.
    waiting = device if num_images * num_outputs <= _MOST_ON_DEVICE else torch.device("cpu")
    num_common_batches = num_images // machine.world_size // batch_size
    outputs = [torch.zeros(0, num_outputs, device=waiting)]
    indices = [torch.zeros(0, dtype=torch.long)]
    for number, batch in enumerate(batches):
        images = normalized(batch.images, preprocessing, machine)
        with full_float32() if full_precision else machine.accelerator.autocast():
            outputs.append(in_halves(compute, images).float().to(waiting))
        indices.append(batch.indices)
        if number < num_common_batches:
            between_batches()
    places = _gather_uneven(torch.cat(indices), machine)
    order = torch.argsort(places)
    assert torch.equal(places[order], torch.arange(num_images)), "an image was evaluated twice or not at all"
    return _gather_uneven(torch.cat(outputs), machine)[order]


def _gather_uneven(rows: Tensor, machine: Machine) -> Tensor:
    """The rows of all processes on the CPU, whatever number each process has."""
    if machine.world_size == 1:
        return rows.cpu()
    counts = [torch.zeros(1, dtype=torch.long) for _ in range(machine.world_size)]
    dist.all_gather(counts, torch.tensor([len(rows)]), group=machine.speakers)
    most = int(torch.stack(counts).max())
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    everything = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everything, padded, group=machine.speakers if rows.device.type == "cpu" else None)
    return torch.cat([part[: int(count)].cpu() for part, count in zip(everything, counts, strict=True)])


@contextmanager
def full_float32() -> Iterator[None]:
    """Inside, products and convolutions of float32 have all 24 bits of it; TF32 has 11."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
