"""Archives of torch.export: a graph with its weights, which torch runs without the model's code."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from resnet_hub.formats.exported_network import ExportedNetwork


def write_pt2(network: ExportedNetwork, example: Tensor, path: Path) -> None:
    """Write the network for batches of any size."""
    program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program.example_inputs = None  # they would be stored, and are the user's pictures
    torch.export.save(program, path)


def open_own_pt2(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function from inputs to outputs.

    Only for files that this process wrote: an archive can make torch unpickle parts of it.
    """
    module = torch.export.load(path).module()

    def run(images: Tensor) -> list[Tensor]:
        outputs = module(images)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs]

    return run
