"""Where the family meets timm's factory: building a model, describing weights, refusing the wrong ones."""

import builtins
import math
import re
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, build_model_with_cfg, is_model
from torch import nn

from resnet_hub.errors import ConfigError, ModelError, nearest
from resnet_hub.files import expanded
from resnet_hub.models.architecture import MyResNet
from resnet_hub.models.names import fetch_weights, registry_name
from resnet_hub.models.packaged_weights import file_of
from resnet_hub.models.published_weights import Weights
from resnet_hub.models.strict_loading import check_state_dict
from resnet_hub.models.variant import STEM_STRIDES, Variant

PretrainedCfgs: TypeAlias = dict[str, dict[str, Any] | PretrainedCfg]


def build(
    name: str, variant: Variant, pretrained: bool, options: dict[str, Any], *, twin: str | None
) -> nn.Module:
    """A model for timm's factory.

    Args:
        name: Name in timm's registry, whose pretrained configuration is used.
        variant: What to build.
        pretrained: Whether to load weights; they are refused unless they fit wholly.
        options: What `timm.create_model` was given besides.
        twin: Name of timm's model that computes the same, if there is one.
    """

    def checked(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """`state_dict` as it is, once it is known to fit; timm calls this between reading and loading."""
        assert isinstance(model, MyResNet)
        cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]  set by timm
        source = str(cfg["hf_hub_id"]) if file is not None else _source(cfg)
        refuse_other_network(source, twin if model.variant == variant else None)
        check_state_dict(model, state_dict, replaced=_adapted(model, cfg), source=source)
        return state_dict

    file = _published_file(name, options) if pretrained else None
    if file is not None:
        options = options | {"pretrained_cfg_overlay": {"file": str(file)}}
    return build_model_with_cfg(
        partial(MyResNet, variant),
        name,
        pretrained,
        feature_cfg={"out_indices": tuple(range(len(variant.depths) + 1))},
        pretrained_filter_fn=checked,
        **options,
    )


def _published_file(name: str, options: dict[str, Any]) -> Path | None:
    """The file of the weights, if these are the registry's own and nobody changed them.

    timm would fetch them too, but slowly where the Hub is dead, and without comparing their sum.
    """
    tag, cache_dir = options.get("pretrained_cfg"), options.get("cache_dir")
    if options.get("pretrained_cfg_overlay") or not (tag is None or isinstance(tag, str)):
        return None
    named = registry_name(f"{name}.{tag}" if tag else name)
    assert named is not None
    return fetch_weights(named, cache_dir=cache_dir and Path(cache_dir))


def pretrained_cfg(variant: Variant, weights: Weights | None = None) -> dict[str, Any]:
    """What timm wants to know of an input and a head: of published weights, or of a variant without any."""
    is_small = variant.stem == "conv3"
    size = weights.train_size if weights else (32 if is_small else 224)
    reduction = STEM_STRIDES[variant.stem][1] * 2 ** (len(variant.depths) - 1)
    cfg = {
        "input_size": (3, size, size),
        "pool_size": (math.ceil(size / reduction),) * 2,
        "num_classes": 1000,
        "first_conv": "conv1.0" if variant.stem in ("deep", "tiered") else "conv1",
        "classifier": "fc",
        "crop_pct": 1.0 if is_small else 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    if weights is None:
        return cfg
    test_size = weights.test_size
    return cfg | {
        **_place(weights),
        "test_input_size": (3, test_size, test_size) if test_size else None,
        "num_classes": weights.num_classes,
        "crop_pct": weights.crop_pct,
        "test_crop_pct": weights.test_crop_pct,
        "interpolation": weights.interpolation,
        "mean": weights.mean,
        "std": weights.std,
        "license": weights.license,
        "origin_url": weights.origin_url,
        "paper_ids": weights.paper_ids,
    }


def _place(weights: Weights) -> dict[str, str | None]:
    """The fields that tell timm where the weights are."""
    if weights.file:
        return {"file": str(file_of(weights))}
    return {
        "hf_hub_id": weights.repo_id,  # in full: timm completes only a bare "timm/", and with our name
        "hf_hub_filename": "model.safetensors",  # without it timm would fall back to a pickle
    }


def _source(cfg: dict[str, Any]) -> str:
    """Where timm read the weights from, in the order in which it looks."""
    if cfg.get("source") == "hf-hub":
        return str(cfg["hf_hub_id"])
    if cfg.get("state_dict"):
        return "the state dict"
    return str(cfg.get("file") or cfg.get("hf_hub_id") or cfg.get("url"))


def _adapted(model: MyResNet, cfg: dict[str, Any]) -> set[str]:
    """Names of the tensors that timm replaces or adapts on purpose: other classes, other input channels."""
    names = set()
    if model.num_classes != cfg["num_classes"]:
        names |= {f"{cfg['classifier']}.weight", f"{cfg['classifier']}.bias"}
    if model.in_chans != cfg["input_size"][0]:
        names.add(f"{cfg['first_conv']}.weight")
    return names


def refuse_other_network(source: str, twin: str | None) -> None:
    """Raise ModelError if `source` is a repository of timm's for another network than `twin`.

    Fitting names and shapes prove nothing: `timm/resnetaa50.a1h_in1k` fits a plain ResNet-50, wrongly.
    """
    owner, _, repository = source.partition("/")
    architecture = repository.partition(".")[0]
    if owner == "timm" and is_model(architecture) and architecture != twin:
        right = next(name for name in (f"my_{architecture}", architecture) if is_model(name))
        raise ModelError(
            f"{source} holds weights of timm's {architecture}, and this variant computes "
            f"{f'what {twin} computes' if twin else 'something that no model of timm computes'}, though the "
            f"weights may seem to fit. Use them with {right!r}."
        )


def check_new_name(name: str, *, is_ours: bool, is_again: bool, is_used_here: bool) -> None:
    """Raise ModelError unless a user's variant may be registered under `name`.

    Args:
        name: What it is to be called.
        is_ours: Whether it is a network that comes with this package: its published weights would be lost.
        is_again: Whether the user has registered the same variant before, as a notebook does.
        is_used_here: Whether the module that holds the entry points has something else of that name.
    """
    if is_again:
        return
    if not name.isidentifier():
        raise ModelError(
            f"{name!r} cannot name a model: timm makes it the name of a function. Use letters, digits and "
            f"underscores, such as {re.sub(r'^(?=[0-9]|$)', 'my_', re.sub(r'[^0-9a-zA-Z_]+', '_', name))!r}."
        )
    if is_ours:
        raise ModelError(
            f"The name {name!r} is taken by a network that comes with resnet_hub, which is there already and "
            f"cannot be replaced; choose another for yours, such as {f'{name}_mine'!r}."
        )
    if is_model(name):
        raise ModelError(
            f"The name {name!r} is taken by another model of timm or of the family; choose one not in "
            f"timm.list_models(), such as {f'{name}_mine'!r}."
        )
    # The name of a builtin would be as bad: functions look into their module before they look there.
    if is_used_here or hasattr(builtins, name) or name.startswith("__"):
        raise ModelError(
            f"The name {name!r} is taken by something that Python or resnet_hub itself uses; choose another, "
            f"such as {'my_' + name.strip('_')!r}."
        )


def user_source(pretrained: str | Path | None, twin: str | None) -> dict[str, Any]:
    """The fields that tell timm where a user's weights are; only safetensors, never a pickle.

    Args:
        pretrained: A repository on the Hub, a .safetensors file, or None for no weights.
        twin: Name of timm's model that the variant computes, if there is one.
    """
    if pretrained is None:
        return {}
    if (file := expanded(pretrained)).suffix == ".safetensors":
        if not file.is_file():
            raise ModelError(f"There is no file {file}; give the .safetensors file with the weights.")
        return {"file": str(file)}
    if isinstance(pretrained, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", pretrained):
        raise ModelError(
            f"pretrained={str(pretrained)!r} is neither a Hub repository ('user/name') nor a .safetensors "
            "file. Pickles (.pth, .bin) are not read; save them once with safetensors.torch.save_file."
        )
    refuse_other_network(pretrained, twin)
    return {"hf_hub_id": pretrained, "hf_hub_filename": "model.safetensors"}


def known_fields(cfg: dict[str, Any]) -> dict[str, Any]:
    """`cfg` as it is, if timm's PretrainedCfg has all of its keys."""
    known = [field.name for field in fields(PretrainedCfg)]
    for key in cfg:
        if key not in known:
            raise ConfigError(f"timm's pretrained configuration has no {key!r}; {nearest(key, known)}")
    return cfg
