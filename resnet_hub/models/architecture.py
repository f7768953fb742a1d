"""The one network class of the family, `MyResNet`.

It builds the network that a `Variant` describes out of the parts in `resnet_hub.models.blocks`, and keeps the
contract that timm has for its models.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch
from timm.layers import LayerType, SelectAdaptivePool2d, get_device_dtype
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices  # timm has no public name for it
from torch import Tensor, nn
from torch.nn import functional

from resnet_hub.errors import ModelError, nearest
from resnet_hub.models.blocks import (
    BasicBlock,
    Bottleneck,
    Layers,
    ResidualBlock,
    conv1x1,
    conv3x3,
    make_shortcut,
    make_stem_conv,
    make_stem_pool,
)
from resnet_hub.models.variant import (
    GLOBAL_POOLS,
    MAX_STAGES,
    STEM_STRIDES,
    AntiAlias,
    Shortcut,
    Stem,
    Variant,
    check_choice,
    check_rate,
)

__all__ = ["BasicBlock", "Bottleneck", "MyResNet", "Variant", "conv1x1", "conv3x3"]

_Method = TypeVar("_Method", bound=Callable[..., Any])
_BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def _not_scripted(method: _Method) -> _Method:
    """`torch.jit.ignore`, whose annotation knows only the form with arguments."""
    return torch.jit.ignore(method)  # pyright: ignore[reportArgumentType, reportReturnType]


class MyResNet(nn.Module):
    """A residual network for images: (batch, in_chans, height, width) -> (batch, num_classes) logits.

    Any image of 32 pixels or more will do, since the pooling is adaptive.

    Args:
        name: One of the five names in `MyResNet.cfgs`, such as "resnet50", or a `Variant` of your own.
        num_classes: Number of logits; 0 leaves the pooled features.
        in_chans: Channels of the image.
        output_stride: Largest ratio of image size to feature size; strides beyond it become dilation.
        global_pool: How the last features become a vector: avg, max, avgmax, catavgmax, their fast forms, or
            "" to leave them (batch, channels, height, width).
        drop_rate: Dropout before the classifier, as a fraction.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 (arXiv:1603.09382).
        zero_init_last: Start every residual branch at zero (arXiv:1706.02677, section 5.1).
        act_layer: Activation, by timm's name or as a class.
        norm_layer: Normalization, by timm's name or as a class.
        stem: Use this stem instead of the variant's.
        shortcut: Use this shortcut instead of the variant's.
        attn: Use this attention instead of the variant's.
        anti_alias: Use this low-pass filter instead of the variant's.
        device: Where the parameters are made; "meta" makes none.
        dtype: Precision of the parameters.

    Raises:
        ModelError: The name is unknown, or an option has a value that no layer can be made of.
    """

    cfgs: ClassVar[dict[str, Variant]] = {  # table 1 of arXiv:1512.03385
        "resnet18": Variant(block="basic", depths=(2, 2, 2, 2)),
        "resnet34": Variant(block="basic", depths=(3, 4, 6, 3)),
        "resnet50": Variant(block="bottleneck", depths=(3, 4, 6, 3)),
        "resnet101": Variant(block="bottleneck", depths=(3, 4, 23, 3)),
        "resnet152": Variant(block="bottleneck", depths=(3, 8, 36, 3)),
    }

    def __init__(  # noqa: PLR0913  timm.create_model passes every option by keyword
        self,
        name: str | Variant,
        num_classes: int = 1000,
        *,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
        act_layer: LayerType = "relu",
        norm_layer: LayerType = "batchnorm",
        stem: Stem | None = None,
        shortcut: Shortcut | None = None,
        attn: str | None = None,
        anti_alias: AntiAlias | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rate("drop_rate", drop_rate)
        check_rate("drop_path_rate", drop_path_rate)
        changes = {"stem": stem, "shortcut": shortcut, "attn": attn, "anti_alias": anti_alias}
        variant = replace(_find_variant(name), **{k: v for k, v in changes.items() if v is not None})
        self.variant = variant
        self.has_default_layers = (act_layer, norm_layer, output_stride) == ("relu", "batchnorm", 32)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.zero_init_last = zero_init_last
        self.grad_checkpointing = False

        layers = Layers(
            act_layer=act_layer,
            norm_layer=norm_layer,
            attn=variant.attn,
            anti_alias=variant.anti_alias,
            groups=variant.groups,
            group_width=variant.group_width,
            device=device,
            dtype=dtype,
        )
        self.conv1 = make_stem_conv(variant.stem, in_chans, variant.stem_width, layers)
        self.bn1 = layers.norm(variant.stem_width)
        self.act1 = layers.act()
        self.maxpool = make_stem_pool(variant.stem, variant.stem_width, layers)
        # A stage that the variant lacks is an empty Sequential, as timm leaves where it prunes: it passes the
        # features through, and forward needs no branches, which TorchScript could not follow.
        self.layer1, self.layer2, self.layer3, self.layer4, self.feature_info = _make_stages(
            variant, output_stride, drop_path_rate, layers
        )
        self.num_features: int = self.feature_info[-1]["num_chs"]
        self._make_head(num_classes, global_pool, device=device, dtype=dtype)
        self.init_weights(zero_init_last)

    @_not_scripted
    def _make_head(
        self, num_classes: int, kind: str, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        check_choice("global_pool", kind, GLOBAL_POOLS)
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=kind, flatten=bool(kind))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()  # catavgmax doubles it
        self.fc = (
            nn.Linear(self.head_hidden_size, num_classes, device=device, dtype=dtype)
            if num_classes > 0
            else nn.Identity()
        )

    @_not_scripted
    def init_weights(self, zero_init_last: bool | None = None) -> None:
        """Draw every weight again and reset every buffer.

        Convolutions: normal with variance 2 / fan_out (arXiv:1502.01852); the last BatchNorm of each block:
        zero, if `zero_init_last` (None: as the network was built); everything else: torch's own defaults.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:  # only in attention
                    nn.init.zeros_(module.bias)
            elif callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        if self.zero_init_last if zero_init_last is None else zero_init_last:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.zero_last_norm()

    @_not_scripted
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Regular expressions that sort parameters into stem and blocks (coarse: stages)."""
        return {"stem": r"^conv1|bn1|maxpool", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    @_not_scripted
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @_not_scripted
    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The layer that makes the logits, or its name."""
        return "fc" if name_only else self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one for `num_classes`; None keeps the pooling."""
        kind = self.global_pool.pool_type if global_pool is None else global_pool
        self._make_head(num_classes, kind, **get_device_dtype(self))
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def forward_intermediates(  # noqa: PLR0917  timm's signature
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Last features and those after the stem and chosen stages.

        Args:
            x: Images, (batch, in_chans, height, width).
            indices: Which of `feature_info`: the last n, a list (negative from the end), or None for all.
            norm: Ignored, as in timm's ResNet.
            stop_early: Do not run stages after the last chosen one.
            output_fmt: Only "NCHW".
            intermediates_only: Leave the last features out.
        """
        check_choice("output_fmt", output_fmt, ("NCHW",))
        taken, last = feature_take_indices(len(self.feature_info), indices)
        intermediates = []
        x = self.act1(self.bn1(self.conv1(x)))
        if 0 in taken:
            intermediates.append(x)
        x = self.maxpool(x)
        stages = [self.layer1, self.layer2, self.layer3, self.layer4]
        for index, stage in enumerate(stages[:last] if stop_early else stages, start=1):
            x = (
                checkpoint_seq(stage, x)
                if self.grad_checkpointing and not torch.jit.is_scripting()
                else stage(x)
            )
            if index in taken:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the stages after the last of `indices`; returns the indices that are left.

        `prune_norm` is ignored, as in timm's ResNet: nothing is normalized after the stages.
        """
        taken, last = feature_take_indices(len(self.feature_info), indices)
        for number in range(last + 1, MAX_STAGES + 1):
            setattr(self, f"layer{number}", nn.Sequential())
        if last == 0:
            self.maxpool = nn.Identity()
        is_shortened = last < len(self.feature_info) - 1
        if is_shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or is_shortened:  # the head was made for the last stage
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """Images -> features before pooling, (batch, num_features, height / stride, width / stride)."""
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.act1(x)
        x = self.maxpool(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq([self.layer1, self.layer2, self.layer3, self.layer4], x, flatten=True)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        return self.layer4(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features before pooling -> logits, (batch, num_classes); `pre_logits`: pooled features."""
        x = self.global_pool(x)
        if self.drop_rate:
            x = functional.dropout(x, p=float(self.drop_rate), training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images, (batch, in_chans, height, width) -> logits, (batch, num_classes)."""
        x = self.forward_features(x)
        return self.forward_head(x)


def _find_variant(name: str | Variant) -> Variant:
    if isinstance(name, Variant):
        return name
    if name not in MyResNet.cfgs:
        raise ModelError(
            f"MyResNet has no network {name!r}; {nearest(name, MyResNet.cfgs)} The whole family is made by "
            "timm.create_model: resnet_hub.list_models() has its names."
        )
    return MyResNet.cfgs[name]


def _make_stages(
    variant: Variant, output_stride: int, drop_path_rate: float, layers: Layers
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential, nn.Sequential, list[dict[str, Any]]]:
    """Four stages (the missing ones empty) and what timm wants to know of each feature map."""
    block = _BLOCKS[variant.block]
    stem_stride, net_stride = STEM_STRIDES[variant.stem]
    if output_stride not in (allowed := [s for s in (1, 2, 4, 8, 16, 32) if s >= net_stride]):
        raise ModelError(
            f"output_stride={output_stride} is not possible after this stem; choose one of {allowed}."
        )
    feature_info: list[dict[str, Any]] = [
        {"num_chs": variant.stem_width, "reduction": stem_stride, "module": "act1"}
    ]
    # Stochastic depth grows linearly with the block's number (arXiv:1603.09382, equation 4).
    num_blocks = sum(variant.depths)
    drop_rates = iter([drop_path_rate * index / max(num_blocks - 1, 1) for index in range(num_blocks)])
    stages = [nn.Sequential() for _ in range(MAX_STAGES)]
    channels, dilation = variant.stem_width, 1
    for index, (width, depth) in enumerate(zip(variant.widths, variant.depths, strict=True)):
        stride = 1 if index == 0 else 2
        first_dilation = dilation
        if net_stride * stride > output_stride:
            stride, dilation = 1, dilation * stride
        net_stride *= stride
        out_channels = width * block.expansion
        downsample = make_shortcut(
            variant.shortcut, channels, out_channels, stride=stride, dilation=dilation, layers=layers
        )
        blocks = [
            block(
                channels if first else out_channels,
                width,
                stride if first else 1,
                downsample if first else None,
                dilation=dilation,
                first_dilation=first_dilation if first else dilation,
                drop_path_rate=next(drop_rates),
                layers=layers,
            )
            for first in (True, *(False,) * (depth - 1))
        ]
        stages[index] = nn.Sequential(*blocks)
        channels = out_channels
        feature_info.append({"num_chs": channels, "reduction": net_stride, "module": f"layer{index + 1}"})
    return stages[0], stages[1], stages[2], stages[3], feature_info
