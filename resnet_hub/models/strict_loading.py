"""Weights are put into a network only if they fit it wholly; otherwise the error names what does not."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.errors import ModelError, some_of

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SHOWN = 4  # names in a message; a wrong checkpoint has hundreds
_LONGEST_NAME = 120  # characters of each; a hostile file may have names of any length


def check_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    replaced: Iterable[str] = (),
    source: str = "checkpoint",
) -> None:
    """Raise ModelError unless `state_dict` has each tensor of `model`, no other, of its shape, and usable.

    Args:
        model: The network that the weights are for.
        state_dict: Names and tensors as they were read.
        replaced: Names that may be missing or of another shape, because new weights are wanted there.
        source: What to call the weights in the message.
    """
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, Tensor)}
    found = misfits(model, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, replaced=replaced)
    found += unusable(model, tensors)
    if bad := state_dict.keys() - tensors.keys():
        found.append(f"not tensors: {shortened(bad)}")
    if found:
        raise ModelError(
            f"The weights in {source} do not fit {type(model).__name__} ({'; '.join(found)}). Nothing was "
            "loaded; check that variant, options and num_classes are those that the weights were made with."
        )


def misfits(
    model: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, replaced: Iterable[str] = ()
) -> list[str]:
    """What is wrong with weights of these shapes for `model`, with a few names each; nothing if they fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    allowed = set(replaced)
    # Files from before BatchNorm counted its batches are whole without the counter (torch fills it in).
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    faults = {
        "missing": wanted.keys() - shapes.keys() - allowed - optional,
        "unknown": shapes.keys() - wanted.keys() - allowed,
        "of another shape": {
            f"{name} {shapes[name]} instead of {wanted[name]}"
            for name in (wanted.keys() & shapes.keys()) - allowed
            if shapes[name] != wanted[name]
        },
    }
    return [f"{what}: {shortened(names)}" for what, names in faults.items() if names]


def unusable(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with the kinds and values of tensors for `model`, with a few names each."""
    wanted = model.state_dict()
    kinds = {
        f"{name} as {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if name in wanted and not _has_kind_of(tensor, wanted[name])
    }
    if kinds:
        return [f"of a kind that is not computed with: {shortened(kinds)}"]
    faults = {
        "tensors that hold NaN or infinity": [n for n, tensor in tensors.items() if not is_finite(tensor)],
        "negative variances": [
            name
            for name, tensor in tensors.items()
            if name.endswith("running_var") and tensor.numel() and tensor.min() < 0
        ],
    }
    return [f"{len(names)} {what}: {shortened(names)}" for what, names in faults.items() if names]


def _has_kind_of(tensor: Tensor, wanted: Tensor) -> bool:
    """Whether both hold real numbers of 16 bits or more, or both integers: BatchNorm counts its batches."""
    if wanted.is_floating_point():
        return tensor.dtype in _FLOATS
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def is_finite(tensor: Tensor) -> bool:
    """Whether every number is finite in float32, by their sum, which takes no memory of the tensor's size."""
    if not tensor.is_floating_point():
        return True
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    return math.isfinite(tensor.sum().item()) or math.isfinite(tensor.sum(dtype=torch.float64).item())


def shortened(names: Iterable[str]) -> str:
    """The first few names, none longer than a line, and how many more there are."""
    ordered = sorted(names)
    return some_of([name[:_LONGEST_NAME] for name in ordered], _SHOWN)
