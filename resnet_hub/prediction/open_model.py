"""Open a trained model by any name: a run, a model folder, a Hub repository, or a model with weights."""

from pathlib import Path

import timm
from torch import nn

from resnet_hub.hub import load
from resnet_hub.models.names import pretrained_overlay, refuse_revision, registry_name


def open_model(name: str | Path, *, revision: str | None = None, pretrained: bool = True) -> nn.Module:
    """The trained model, in eval mode on the CPU, with its preprocessing in its `pretrained_cfg`.

    Args:
        name: A run's folder, a model folder, `owner/name` on the Hub, or a model of timm or of the family,
            with or without a tag of its weights: my_resnet50.a1_in1k.
        revision: Branch, tag or commit of a Hub repository; nothing else has any.
        pretrained: False gives a model of timm or of the family random weights.

    Raises:
        ModelError: There is no model of that name, it has no weights, or a revision of a name is asked for.
        HubError: The weights cannot be had or cannot be trusted.
    """
    registered = registry_name(name)
    if registered is None:
        return load(name, revision=revision)
    refuse_revision(registered, revision=revision)
    if not pretrained:
        return timm.create_model(registered.architecture).eval()
    overlay = pretrained_overlay(registered)
    return timm.create_model(registered.text, pretrained=True, pretrained_cfg_overlay=overlay).eval()
