"""What the name of a model means: a model of timm's registry, a folder here, or a repository on the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from timm.models import PretrainedCfg
from torch import nn

from resnet_hub.downloads.download import CONFIG_FILE, PICKLES, WEIGHTS_FILE, fetch, pin, remember
from resnet_hub.errors import HubError, ModelError, nearest
from resnet_hub.files import expanded


@dataclass(frozen=True, kw_only=True)
class RegistryName:
    """The name of a model that timm can build, which exists: `my_resnet50`, `my_resnet50.a1_in1k`."""

    text: str
    architecture: str
    """The name without the tag of weights."""
    cfg: PretrainedCfg | None
    """What timm knows of the weights that are named, the default ones without a tag."""


def registry_name(name: str | Path) -> RegistryName | None:
    """The model of timm or of the family that is meant; None for a folder or a repository on the Hub.

    A path, and whatever has a slash or ends like a file of weights, is never the name of a model. The model
    goes before a folder here that has its name; `./resnet18` is the folder.

    Raises:
        ModelError: there is no such model and no such folder, or the model has no such weights.
    """
    text = str(name)
    architecture = text.partition(".")[0]
    is_place = isinstance(name, Path) or "/" in text or text.startswith(("local-dir:", "hf-hub:"))
    is_place = is_place or text.endswith((*PICKLES, ".safetensors"))
    if is_place or (Path(text).is_dir() and not timm.is_model(architecture)):
        return None
    if not timm.is_model(architecture):
        raise ModelError(
            f"There is no model or folder {text!r}; {nearest(architecture, timm.list_models())} `resnet-hub "
            f"list` shows the family; a folder or user/repo on the Hub can be named as well."
        )
    try:
        cfg = timm.get_pretrained_cfg(text)
    except RuntimeError:  # timm's error for an unknown tag
        tags = timm.list_pretrained(f"{architecture}.*")
        raise ModelError(f"There are no weights {text!r}; {nearest(text, tags)}") from None
    return RegistryName(text=text, architecture=architecture, cfg=cfg)


def local_folder(source: str | Path) -> Path | None:
    """The model folder that is meant, a run's `export/` for a run; None when there is no such folder."""
    folder = expanded(str(source).removeprefix("local-dir:"))
    if not folder.is_dir():
        return None
    return folder / "export" if (folder / "export" / CONFIG_FILE).is_file() else folder


def hub_repository(source: str | Path) -> tuple[str, str | None]:
    """Repository and revision that `hf-hub:user/repo@v1` names, which may lack the prefix or the revision."""
    repo_id, _, revision = str(source).removeprefix("hf-hub:").partition("@")
    return repo_id, revision or None


def refuse_revision(name: RegistryName, *, revision: str | None) -> None:
    """Raise ModelError if a revision was asked for with a model's name, which would not be heeded."""
    if revision is None:
        return
    repo_id = hub_repository(name.cfg.hf_hub_id)[0] if name.cfg is not None and name.cfg.hf_hub_id else None
    instead = f"Name {repo_id}, where its weights are" if repo_id else "Name the repository that is meant"
    raise ModelError(
        f"{name.text} is the name of a model, asked for with revision {revision!r}, and only a repository on "
        f"the Hub (user/repo) has revisions. {instead}, or leave the revision out."
    )


def check_weights(name: RegistryName) -> None:
    """Raise ModelError unless the weights exist as safetensors, on the Hub or in the package."""
    tags = timm.list_pretrained(f"{name.architecture}.*")
    if not tags:
        raise ModelError(
            f"{name.architecture} has no pretrained weights. Name a model of `resnet-hub list --pretrained`, "
            f"or a folder or Hub repository of one that was trained."
        )
    if name.cfg is None or not (name.cfg.hf_hub_id or name.cfg.file):
        raise ModelError(
            f"The weights of {name.text} are published as a pickle only, which is not read. Choose others: "
            f"{', '.join(tags)}."
        )


def pretrained_overlay(name: RegistryName) -> dict[str, str] | None:
    """What to give `timm.create_model(name, pretrained=True)` as `pretrained_cfg_overlay`: the checked file.

    timm then asks nobody; on its own it retries a dead Hub for half a minute and compares no sums. None for
    weights that are a file here already.

    Raises:
        ModelError: there are no weights that can be read.
        HubError: they can be had neither from the Hub nor from the cache.
    """
    check_weights(name)
    file = fetch_weights(name)
    return None if file is None else {"file": str(file)}


def fetch_weights(name: RegistryName, *, cache_dir: Path | None = None) -> Path | None:
    """The file of the weights, from the Hub or its cache and checked; None where there are none on the Hub.

    Raises:
        HubError: they can be had neither from the Hub nor from the cache, or are a pickle.
    """
    if name.cfg is None or not name.cfg.hf_hub_id:
        return None
    repo_id, revision = hub_repository(name.cfg.hf_hub_id)
    filename = name.cfg.hf_hub_filename or WEIGHTS_FILE
    if filename.endswith(PICKLES):
        raise HubError(
            f"The weights of {name.text} are published as a pickle only ({filename}), which is not read."
        )
    cache_dir = cache_dir and expanded(cache_dir)
    pinned = pin(repo_id, revision=revision, filename=filename, cache_dir=cache_dir)
    path = fetch(pinned, filename, cache_dir=cache_dir).path
    remember(pinned, cache_dir=cache_dir)
    return path


def has_published_classifier(network: nn.Module) -> bool:
    """Whether the last layer is, bit for bit, that of the weights of timm that its `pretrained_cfg` names.

    The names alone would not tell: a network keeps them when it was never given those weights, or was trained
    on. They are compared with the file in the cache of the Hub, and nobody is asked.
    """
    cfg: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    repo_id, revision = hub_repository(cfg.get("hf_hub_id") or "")
    name = f"{cfg.get('classifier')}.bias"
    bias = dict(network.named_parameters()).get(name)
    if bias is None or not repo_id.startswith("timm/"):
        return False
    file = try_to_load_from_cache(repo_id, cfg.get("hf_hub_filename") or WEIGHTS_FILE, revision=revision)
    if not isinstance(file, str) or not file.endswith(".safetensors"):
        return False
    with safe_open(file, framework="pt") as tensors:
        return name in tensors.keys() and torch.equal(tensors.get_tensor(name).to(bias), bias)  # noqa: SIM118
