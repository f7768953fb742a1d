"""The family in timm's registry, and its published weights by way of the Hub part of this package."""

import timm

import resnet_hub.models.my_resnet  # noqa: F401  registers the family
from resnet_hub.downloads.download import ensure_pretrained_weights
from resnet_hub.models.timm_factory import use_weights_finder

use_weights_finder(ensure_pretrained_weights)


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names of the family's models, your own included; with `pretrained` those of its weights, with tags."""
    return timm.list_models(module="my_resnet", pretrained=pretrained)
