"""Which stages of a network learn: all, all but the first, or one more from above every few epochs."""

from typing import Any

from timm.models import group_parameters
from torch import nn

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.settings import FreezingSettings


def check_freezing(settings: FreezingSettings, network: nn.Module) -> None:
    """Raise ConfigError if the options leave no stage beside fc that could ever learn."""
    names = _stages(network)
    if settings.frozen_stages > len(names) - 1:
        raise ConfigError(
            f"--frozen_stages {settings.frozen_stages}: the network has {len(names) - 1} stages below fc, "
            "counted from the stem. To train fc alone use --recipe quick."
        )


def num_frozen_stages(settings: FreezingSettings, network: nn.Module, epoch: int) -> int:
    """How many stages, counted from the stem, do not learn in an epoch.

    With `gradual_unfreezing` training begins with fc and the last stage, and one more learns every so many
    epochs (Howard and Ruder 2018, arXiv:1801.06146, section 3.3), but never a frozen one.
    """
    if not settings.gradual_unfreezing:
        return settings.frozen_stages
    begun_with = len(_stages(network)) - 2
    return max(settings.frozen_stages, begun_with - epoch // settings.gradual_unfreezing)


def train_all_but(network: nn.Module, num_frozen: int) -> None:
    """Put the network into training, its first stages left as they are.

    Their parameters get no gradient, and their BatchNorm uses its running statistics and leaves them alone;
    in training mode these would drift away from the weights that they belong to.
    """
    frozen = _frozen_names(network, num_frozen)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    set_modes(network, num_frozen)


def set_modes(network: nn.Module, num_frozen: int) -> None:
    """Put the network into training mode, and its first stages into that of evaluation."""
    frozen = _frozen_names(network, num_frozen)
    network.train()
    for name, part in network.named_children():
        own = [f"{name}.{inner}" for inner, _ in part.named_parameters()]
        if own and frozen.issuperset(own):
            part.eval()


def _frozen_names(network: nn.Module, num_frozen: int) -> set[str]:
    return {name for stage in _stages(network)[:num_frozen] for name in stage}


def _stages(network: Any) -> list[list[str]]:
    """Names of the parameters of the stem, of each stage, and last of fc."""
    groups: Any = group_parameters(network, network.group_matcher(coarse=True), return_values=False)
    return [groups[number] for number in sorted(groups)]
