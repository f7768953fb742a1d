"""A trained model by any name that people give it: a folder, a run, a Hub repository, a name with weights."""

from pathlib import Path

import timm
from torch import nn

import resnet_hub.models.registration  # noqa: F401  the family's names
from resnet_hub.downloads.download import refuse_revision
from resnet_hub.errors import ModelError, nearest
from resnet_hub.hub import ensure_pretrained_weights, load
from resnet_hub.models.packaged_weights import is_packaged


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
    text = str(name)
    base = text.partition(".")[0]
    if "/" in text or isinstance(name, Path) or (Path(text).is_dir() and not timm.is_model(base)):
        return load(name, revision=revision)
    if not timm.is_model(base):
        raise ModelError(
            f"There is no model or folder {text!r}; {nearest(base, timm.list_models())} `resnet-hub list` "
            "shows the family; a folder or user/repo on the Hub can be named as well."
        )
    refuse_revision(text, revision=revision)
    if not pretrained:
        return timm.create_model(base).eval()
    tags = timm.list_pretrained(f"{base}.*")
    if not tags:
        raise ModelError(
            f"{base} has no pretrained weights, so it cannot tell anything apart. Name a folder or a Hub "
            "repository of one that was trained, or a model of `resnet-hub list --pretrained`."
        )
    if base != text and text not in tags:
        raise ModelError(f"There are no weights {text!r}; {nearest(text, tags)}")
    file = ensure_pretrained_weights(text)
    cfg = timm.get_pretrained_cfg(text)
    if file is None and not (cfg is not None and is_packaged(cfg.file)):
        raise ModelError(f"The weights of {text} are not on the Hub; {nearest(text, tags)}")
    overlay = None if file is None else {"file": str(file)}
    return timm.create_model(text, pretrained=True, pretrained_cfg_overlay=overlay).eval()
