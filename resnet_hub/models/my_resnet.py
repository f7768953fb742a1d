"""The family: one table of variants, their pretrained configurations, and an entry point in timm for each.

Importing this module registers every `my_*` model in timm.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models import generate_default_cfgs, register_model
from torch import nn

from resnet_hub.models.architecture import MyResNet
from resnet_hub.models.packaged_weights import packaged_weights_of
from resnet_hub.models.published_weights import Weights, weights_of
from resnet_hub.models.timm_factory import (
    PretrainedCfgs,
    build,
    check_new_name,
    known_fields,
    pretrained_cfg,
    user_source,
)
from resnet_hub.models.variant import Variant

R18, R34, R50, R101, R152 = MyResNet.cfgs.values()
# Rows with a name of timm's after `my_` compute what timm's model of that name computes.
R18, R34, R50, R101, R152 = MyResNet.cfgs.values()
TIMM_LIKE: dict[str, Variant] = {
    "my_resnet18": R18,
    "my_resnet26": Variant(block="bottleneck", depths=(2, 2, 2, 2)),
    "my_resnet34": R34,
    "my_resnet50": R50,
    "my_resnet101": R101,
    "my_resnet152": R152,
    "my_resnet18d": replace(R18, stem="deep", shortcut="avgpool"),
    "my_resnet34d": replace(R34, stem="deep", shortcut="avgpool"),
    "my_resnet50d": replace(R50, stem="deep", shortcut="avgpool"),
    "my_resnet101d": replace(R101, stem="deep", shortcut="avgpool"),
    "my_resnet152d": replace(R152, stem="deep", shortcut="avgpool"),
    "my_wide_resnet50_2": replace(R50, group_width=128),
    "my_wide_resnet101_2": replace(R101, group_width=128),
    "my_resnext50_32x4d": replace(R50, groups=32, group_width=4),
    "my_resnext101_32x4d": replace(R101, groups=32, group_width=4),
    "my_resnext101_32x8d": replace(R101, groups=32, group_width=8),
    "my_resnext101_64x4d": replace(R101, groups=64, group_width=4),
    "my_seresnet18": replace(R18, attn="se"),
    "my_seresnet34": replace(R34, attn="se"),
    "my_seresnet50": replace(R50, attn="se"),
    "my_seresnet101": replace(R101, attn="se"),
    "my_seresnet152": replace(R152, attn="se"),
    "my_seresnext50_32x4d": replace(R50, groups=32, group_width=4, attn="se"),
    "my_ecaresnet26t": Variant(
        block="bottleneck", depths=(2, 2, 2, 2), stem="tiered", shortcut="avgpool", attn="eca"
    ),
    "my_ecaresnet50t": replace(R50, stem="tiered", shortcut="avgpool", attn="eca"),
    "my_ecaresnet50d": replace(R50, stem="deep", shortcut="avgpool", attn="eca"),
    "my_ecaresnet101d": replace(R101, stem="deep", shortcut="avgpool", attn="eca"),
    "my_resnetaa50": replace(R50, anti_alias="avg"),
    "my_resnetblur18": replace(R18, anti_alias="blur"),
    "my_resnetblur50": replace(R50, anti_alias="blur"),
}

# Section 4.2 of arXiv:1512.03385: three stages, and identity shortcuts with zeros for new channels (option A)
# "in all cases", so that the numbers of parameters are those of its table 6.
_CIFAR = {"block": "basic", "widths": (16, 32, 64), "stem": "conv3", "stem_width": 16, "shortcut": "zero_pad"}
OWN: dict[str, Variant] = {
    "my_resnet18_small": replace(R18, stem="conv3"),
    "my_resnet34_small": replace(R34, stem="conv3"),
    "my_resnet50_small": replace(R50, stem="conv3"),
    "my_resnet20": Variant(depths=(3, 3, 3), **_CIFAR),
    "my_resnet32": Variant(depths=(5, 5, 5), **_CIFAR),
    "my_resnet44": Variant(depths=(7, 7, 7), **_CIFAR),
    "my_resnet56": Variant(depths=(9, 9, 9), **_CIFAR),
    "my_resnet110": Variant(depths=(18, 18, 18), **_CIFAR),
    "my_ecaresnet18": replace(R18, attn="eca"),
    "my_ecaresnet50": replace(R50, attn="eca"),
}

VARIANTS: dict[str, Variant] = TIMM_LIKE | OWN

_DESCRIPTIONS = {
    "my_resnet18": "ResNet-18: 8 basic blocks (arXiv:1512.03385); 11.7 M",
    "my_resnet26": "ResNet-26: 8 bottlenecks; 16.0 M",
    "my_resnet34": "ResNet-34: 16 basic blocks (arXiv:1512.03385); 21.8 M",
    "my_resnet50": "ResNet-50: 16 bottlenecks (arXiv:1512.03385, stride in the 3x3); 25.6 M",
    "my_resnet101": "ResNet-101: 33 bottlenecks (arXiv:1512.03385, stride in the 3x3); 44.5 M",
    "my_resnet152": "ResNet-152: 50 bottlenecks (arXiv:1512.03385, stride in the 3x3); 60.2 M",
    "my_resnet18d": "ResNet-18-D: deep stem, pooled shortcuts (arXiv:1812.01187); 11.7 M",
    "my_resnet34d": "ResNet-34-D: deep stem, pooled shortcuts (arXiv:1812.01187); 21.8 M",
    "my_resnet50d": "ResNet-50-D: deep stem, pooled shortcuts (arXiv:1812.01187); 25.6 M",
    "my_resnet101d": "ResNet-101-D: deep stem, pooled shortcuts (arXiv:1812.01187); 44.6 M",
    "my_resnet152d": "ResNet-152-D: deep stem, pooled shortcuts (arXiv:1812.01187); 60.2 M",
    "my_wide_resnet50_2": "Wide ResNet-50-2: 3x3 convolutions twice as wide (arXiv:1605.07146); 68.9 M",
    "my_wide_resnet101_2": "Wide ResNet-101-2: 3x3 convolutions twice as wide (arXiv:1605.07146); 126.9 M",
    "my_resnext50_32x4d": "ResNeXt-50: 32 groups of 4 channels (arXiv:1611.05431); 25.0 M",
    "my_resnext101_32x4d": "ResNeXt-101: 32 groups of 4 channels (arXiv:1611.05431); 44.2 M",
    "my_resnext101_32x8d": "ResNeXt-101: 32 groups of 8 channels (arXiv:1611.05431); 88.8 M",
    "my_resnext101_64x4d": "ResNeXt-101: 64 groups of 4 channels (arXiv:1611.05431); 83.5 M",
    "my_seresnet18": "SE-ResNet-18: squeeze and excitation (arXiv:1709.01507); 11.8 M",
    "my_seresnet34": "SE-ResNet-34: squeeze and excitation (arXiv:1709.01507); 22.0 M",
    "my_seresnet50": "SE-ResNet-50: squeeze and excitation (arXiv:1709.01507); 28.1 M",
    "my_seresnet101": "SE-ResNet-101: squeeze and excitation (arXiv:1709.01507); 49.3 M",
    "my_seresnet152": "SE-ResNet-152: squeeze and excitation (arXiv:1709.01507); 66.8 M",
    "my_seresnext50_32x4d": "SE-ResNeXt-50 32x4d: squeeze and excitation (arXiv:1709.01507); 27.6 M",
    "my_ecaresnet26t": "ECA-ResNet-26-T: tiered stem, pooled shortcuts, ECA (arXiv:1910.03151); 16.0 M",
    "my_ecaresnet50t": "ECA-ResNet-50-T: tiered stem, pooled shortcuts, ECA (arXiv:1910.03151); 25.6 M",
    "my_ecaresnet50d": "ECA-ResNet-50-D: deep stem, pooled shortcuts, ECA (arXiv:1910.03151); 25.6 M",
    "my_ecaresnet101d": "ECA-ResNet-101-D: deep stem, pooled shortcuts, ECA (arXiv:1910.03151); 44.6 M",
    "my_resnetaa50": "ResNet-50 with a 2x2 mean for every stride; 25.6 M",
    "my_resnetblur18": "ResNet-18 with blurs before every stride (arXiv:1904.11486); 11.7 M",
    "my_resnetblur50": "ResNet-50 with blurs before every stride (arXiv:1904.11486); 25.6 M",
    "my_resnet18_small": "ResNet-18 for images of about 32 pixels: 3x3 stem, no pooling; 11.7 M",
    "my_resnet34_small": "ResNet-34 for images of about 32 pixels: 3x3 stem, no pooling; 21.8 M",
    "my_resnet50_small": "ResNet-50 for images of about 32 pixels: 3x3 stem, no pooling; 25.5 M",
    "my_resnet20": "ResNet-20 for CIFAR (arXiv:1512.03385, section 4.2); 0.30 M",
    "my_resnet32": "ResNet-32 for CIFAR (arXiv:1512.03385, section 4.2); 0.53 M",
    "my_resnet44": "ResNet-44 for CIFAR (arXiv:1512.03385, section 4.2); 0.72 M",
    "my_resnet56": "ResNet-56 for CIFAR (arXiv:1512.03385, section 4.2); 0.92 M",
    "my_resnet110": "ResNet-110 for CIFAR (arXiv:1512.03385, section 4.2); 1.79 M",
    "my_ecaresnet18": "ECA-ResNet-18: efficient channel attention (arXiv:1910.03151); 11.7 M",
    "my_ecaresnet50": "ECA-ResNet-50: efficient channel attention (arXiv:1910.03151); 25.6 M",
}


def timm_twin(model: str | nn.Module) -> str | None:
    """Name of timm's model that computes the same from the same weights; None if there is none.

    A built model counts as it was built: a stem, activation or output stride unlike its twin's makes it None.
    A name may carry a pretrained tag.
    """
    if isinstance(model, str):
        name = model.partition(".")[0]
        return layout_twin(VARIANTS[name]) if name in VARIANTS else None
    if not isinstance(model, MyResNet) or not model.has_default_layers:
        return None
    return layout_twin(model.variant)


def layout_twin(variant: Variant) -> str | None:
    """Name of timm's model that this variant is, whatever it is called here."""
    matches = (name.removeprefix("my_") for name, row in TIMM_LIKE.items() if row == variant)
    return next(matches, None)


def published_weights(name: str) -> list[Weights]:
    """The published weights of a variant of this table, on the Hub or in the package, its default first."""
    find = weights_of if name in TIMM_LIKE else packaged_weights_of
    return find(name.removeprefix("my_")) if name in VARIANTS else []


def _default_cfgs() -> PretrainedCfgs:
    cfgs: PretrainedCfgs = {}
    for name, variant in VARIANTS.items():
        published = published_weights(name)
        cfgs |= {f"{name}.{weights.tag}": pretrained_cfg(variant, weights) for weights in published}
        if not published:
            cfgs[name] = pretrained_cfg(variant)
    return cfgs


default_cfgs = generate_default_cfgs(_default_cfgs())  # the first tag of a name is its default


def _register(name: str, description: str | None = None) -> Callable[..., nn.Module]:
    """Put the variant of that name into timm; gives its entry point, which `timm.create_model` calls."""

    def entry_point(pretrained: bool = False, **timm_options: Any) -> nn.Module:
        return build(name, VARIANTS[name], pretrained, timm_options, twin=timm_twin(name))

    # timm registers by the name of the function, and filters models by the last part of its module's name.
    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = description
    globals()[name] = entry_point  # where pickle looks it up
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Overwriting")  # the same cell of a notebook again
        return register_model(entry_point)


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names of the family's models, your own included; with `pretrained` those of its weights, with tags."""
    return timm.list_models(module="my_resnet", pretrained=pretrained)


def register_variant(
    name: str, variant: Variant, *, pretrained: str | Path | None = None, cfg: dict[str, Any] | None = None
) -> Callable[..., nn.Module]:
    """The entry point, in timm, of a ResNet of your own, from now on a model like any other of the family.

    Args:
        name: What `timm.create_model` will know it by; a Python name that no model has yet.
        variant: What it is: `Variant(block="basic", depths=(1, 1, 1, 1), stem="conv3")`, or a row with a
            change, `dataclasses.replace(VARIANTS["my_resnet50"], attn="eca")`.
        pretrained: Its weights, if there are any: a Hub repository, `user/name`, or a .safetensors file.
        cfg: What its weights need in timm's pretrained configuration: mean, std, num_classes, license ...

    Raises:
        ModelError: The name is taken or no Python name, or the weights are another network's or a pickle.
        ConfigError: A key of `cfg` is not one of timm's `PretrainedCfg`.
    """
    described = (
        pretrained_cfg(variant) | user_source(pretrained, layout_twin(variant)) | known_fields(cfg or {})
    )
    is_ours = name in TIMM_LIKE | OWN
    is_again = not is_ours and VARIANTS.get(name) == variant
    check_new_name(name, is_ours=is_ours, is_again=is_again, is_used_here=name in globals())
    VARIANTS[name] = variant
    default_cfgs.update(generate_default_cfgs({name: described}))
    return _register(name)


for _name, _description in _DESCRIPTIONS.items():
    _register(_name, f"{_description} parameters.")
