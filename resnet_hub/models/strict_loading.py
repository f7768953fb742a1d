"""Weights are put into a network only if they fit it wholly; otherwise the error names what does not."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.errors import ModelError

_SHOWN = 4  # names in a message; a wrong checkpoint has hundreds


def check_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    replaced: Iterable[str] = (),
    source: str = "checkpoint",
) -> None:
    """Raise ModelError unless `state_dict` has each tensor of `model`, no other, of its shape, and finite.

    Args:
        model: The network that the weights are for.
        state_dict: Names and tensors as they were read.
        replaced: Names that may be missing or of another shape, because new weights are wanted there.
        source: What to call the weights in the message.
    """
    wanted, allowed = model.state_dict(), set(replaced)
    # Files from before BatchNorm counted its batches are whole without the counter (torch fills it in).
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    common = wanted.keys() & state_dict.keys()
    faults = {
        "missing": wanted.keys() - state_dict.keys() - allowed - optional,
        "unknown": state_dict.keys() - wanted.keys() - allowed,
        "not tensors": {name for name in common if not isinstance(state_dict[name], Tensor)},
        "of another shape": {
            f"{name} {tuple(state_dict[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in common - allowed
            if isinstance(state_dict[name], Tensor) and state_dict[name].shape != wanted[name].shape
        },
        "not finite": {name for name in common if not _is_finite(state_dict[name])},
    }
    found = [f"{what}: {_shown(names)}" for what, names in faults.items() if names]
    if found:
        raise ModelError(
            f"The weights in {source} do not fit {type(model).__name__} ({'; '.join(found)}). Nothing was "
            "loaded; check that variant, options and num_classes are those that the weights were made with."
        )


def _is_finite(value: object) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    return bool(torch.isfinite(value).all())


def _shown(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
