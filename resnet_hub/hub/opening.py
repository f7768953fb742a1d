"""The model that a name on the command line means: a run, a folder, a repository, or a name of timm's."""

from pathlib import Path
from typing import Any

import timm
from torch import nn

from resnet_hub.errors import ModelError, nearest
from resnet_hub.hub.loading import load, local_folder


def open_model(name: str | Path, *, revision: str | None = None, pretrained: bool = True) -> nn.Module:
    """The model in eval mode on the CPU, with its preprocessing and class names.

    Args:
        name: a run's folder, a model folder, `owner/name` on the Hub, or a model of timm or of the
            family with its published weights, such as `my_resnet50.a1_in1k`.
        revision: branch, tag or commit of a Hub repository.
        pretrained: False gives a model of timm or of the family random weights.

    Raises:
        UserError: there is nothing of the name, or it has no weights.
    """
    text = str(name)
    if local_folder(name) is not None or "/" in text or text.startswith("hf-hub:"):
        return load(name, revision=revision)
    architecture, _, tag = text.partition(".")
    if not timm.is_model(architecture):
        raise ModelError(
            f"There is no folder {text!r}, and no model of that name; "
            f"{nearest(architecture, timm.list_models())} A repository of the Hub is written owner/name."
        )
    if not pretrained:
        return timm.create_model(architecture).eval()
    try:
        cfg: Any = timm.get_pretrained_cfg(text, allow_unregistered=False)
    except RuntimeError:  # the tag is unknown
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        raise ModelError(f"{architecture} has no weights called {tag!r}; {nearest(tag, tags)}") from None
    if cfg is None or not cfg.has_weights or not cfg.hf_hub_id:
        raise _no_weights(text)
    if architecture.startswith("my_"):
        return timm.create_model(text, pretrained=True).eval()
    # Not timm's own loader: where a repository has no safetensors it would take a pickle.
    return load(cfg.hf_hub_id, revision=revision)


def _no_weights(name: str) -> ModelError:
    return ModelError(
        f"{name} has no published weights; `resnet-hub list --pretrained` shows the models of the family "
        "that have. A run's folder, a model folder and owner/name on the Hub are taken as well."
    )
