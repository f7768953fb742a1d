"""The parts of a ResNet: convolutions, stems, shortcuts, and the two residual blocks.

Layer names are torchvision's and timm's, so that their checkpoints load unchanged. Modules are registered in
the order in which they run; feature extraction and BatchNorm folding rely on it.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import (
    AvgPool2dSame,
    BatchNormAct2d,
    BlurPool2d,
    Conv2dSame,
    DropPath,
    LayerType,
    SyncBatchNormAct,
    create_aa,
    create_attn,
    get_act_layer,
    get_norm_layer,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_hub.errors import ModelError
from resnet_hub.models.variant import AntiAlias

# Channels of the first two of the three 3x3 convolutions (timm's "deep" and "deep_tiered" at stem_width 32).
_DEEP_STEM_CHANNELS = {"deep": (32, 32), "tiered": (24, 32)}

# What can be folded, by its exact type: a standardised convolution is a Conv2d as well, and a norm of timm's
# with an activation a BatchNorm2d.
_PLAIN_CONVS = (nn.Conv2d, Conv2dSame)
_PLAIN_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_NORMS_WITH_ACT = (BatchNormAct2d, SyncBatchNormAct)


def conv3x3(
    in_channels: int,
    out_channels: int,
    stride: int = 1,
    *,
    groups: int = 1,
    dilation: int = 1,
    **factory: Any,
) -> nn.Conv2d:
    """A 3x3 convolution without bias (BatchNorm has it) that keeps height and width at stride 1.

    `factory` is `device` and `dtype`, as in every torch layer.
    """
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size=(3, 3),
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
        **factory,
    )


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, **factory: Any) -> nn.Conv2d:
    """A 1x1 convolution without bias; `factory` is `device` and `dtype`."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=(1, 1), stride=stride, bias=False, **factory)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Makes the layers that are alike in every block of one network."""

    act_layer: LayerType = "relu"
    norm_layer: LayerType = "batchnorm"
    attn: str = ""
    anti_alias: AntiAlias = ""
    groups: int = 1
    group_width: int = 64
    device: torch.device | str | None = None
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        for what, make in (("act_layer", get_act_layer), ("norm_layer", get_norm_layer)):
            asked = getattr(self, what)
            try:
                found = make(asked)
            except KeyError:
                found = None
            if found is None:
                raise ModelError(
                    f"{what}={asked!r} is not a layer of timm; give one such as 'relu' or 'batchnorm'."
                )

    @property
    def factory(self) -> dict[str, Any]:
        """Where the parameters are made and in which precision."""
        return {"device": self.device, "dtype": self.dtype}

    def act(self) -> nn.Module:
        """A new activation; in place, as in torchvision and timm."""
        layer = get_act_layer(self.act_layer)
        assert layer is not None  # checked above
        return layer(inplace=True)

    def norm(self, channels: int) -> nn.Module:
        """A new normalization of that many channels."""
        layer = get_norm_layer(self.norm_layer)
        assert layer is not None  # checked above
        return layer(channels, **self.factory)

    def attention(self, channels: int) -> nn.Module:
        """The attention of one block, or the identity."""
        return create_attn(self.attn, channels, **self.factory) or nn.Identity()

    def low_pass(self, channels: int, stride: int, *, is_needed: bool) -> nn.Module:
        """The anti-aliasing filter that takes a convolution's stride over, or the identity."""
        layer = create_aa(self.anti_alias, channels=channels, stride=stride, enable=is_needed, **self.factory)
        assert layer is not None
        return layer

    def conv_stride(self, stride: int) -> int:
        """Stride left to the convolution when a low-pass filter may follow it."""
        return 1 if self.anti_alias else stride


_PLAIN_LAYERS = Layers()


def fold_batch_norms(module: nn.Module) -> int:
    """How many BatchNorms were folded, in place, into the convolutions that they directly follow.

    Only for evaluation: the running statistics become part of the weights. Relies on modules being registered
    in the order in which they run; for a network of which nobody knows that, compare its outputs afterwards.
    """
    folded = 0
    previous: tuple[nn.Module, str] | None = (
        None  # owner and name of the layer that ran last, if a convolution
    )
    for name, child in list(module.named_children()):
        if previous is not None and isinstance(child, _BatchNorm) and _is_foldable(child):
            owner, conv_name = previous
            setattr(owner, conv_name, fuse_conv_bn_eval(getattr(owner, conv_name), child))
            setattr(module, name, _what_follows_norm(child))
            folded, previous = folded + 1, None
            continue
        folded += fold_batch_norms(child)
        previous = _last_conv(module, name, child)
    return folded


def _is_foldable(norm: _BatchNorm) -> bool:
    # Not of any subclass: what else a forward of somebody's own does would be lost without a word.
    return type(norm) in (*_PLAIN_NORMS, *_NORMS_WITH_ACT) and norm.running_mean is not None


def _what_follows_norm(norm: nn.Module) -> nn.Module:
    """What a layer does once it has normalized: nothing, or timm's dropout and activation."""
    parts = [norm.get_submodule(part) for part in ("drop", "act") if hasattr(norm, part)]
    return nn.Sequential(*parts) if type(norm) in _NORMS_WITH_ACT else nn.Identity()


def _last_conv(owner: nn.Module, name: str, child: nn.Module) -> tuple[nn.Module, str] | None:
    if type(child) in _PLAIN_CONVS:
        return owner, name
    if isinstance(child, nn.Sequential) and len(child):  # a deep stem
        *_, (last, layer) = child.named_children()
        return (child, last) if type(layer) in _PLAIN_CONVS else None
    return None


class ZeroPadShortcut(nn.Module):
    """Every stride-th pixel, and zeros in the new channels (option A of arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height/stride, width/stride)."""
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


def make_stem_conv(stem: str, in_chans: int, out_channels: int, layers: Layers) -> nn.Module:
    """The convolution (or three) that a network starts with; strided by 2, but for conv3."""
    if stem == "conv3":
        return conv3x3(in_chans, out_channels, **layers.factory)
    if stem == "conv7":
        return nn.Conv2d(in_chans, out_channels, (7, 7), stride=2, padding=3, bias=False, **layers.factory)
    first, second = _DEEP_STEM_CHANNELS[stem]
    return nn.Sequential(
        conv3x3(in_chans, first, 2, **layers.factory),
        layers.norm(first),
        layers.act(),
        conv3x3(first, second, **layers.factory),
        layers.norm(second),
        layers.act(),
        conv3x3(second, out_channels, **layers.factory),
    )


def make_stem_pool(stem: str, channels: int, layers: Layers) -> nn.Module:
    """The max-pooling after the stem; nothing after conv3; with its stride in the filter if anti-aliased."""
    if stem == "conv3":
        return nn.Identity()
    if layers.anti_alias == "avg":  # timm's resnetaa: the mean takes the maximum's place
        return nn.AvgPool2d(2)
    if layers.anti_alias == "blur":
        blur = BlurPool2d(channels=channels, stride=2, **layers.factory)
        return nn.Sequential(nn.MaxPool2d(kernel_size=3, stride=1, padding=1), blur)
    return nn.MaxPool2d(kernel_size=(3, 3), stride=2, padding=1)


def make_shortcut(
    kind: str, in_channels: int, out_channels: int, *, stride: int, dilation: int, layers: Layers
) -> nn.Module | None:
    """The layer that fits a block's input to its output, or None where the two have one size already."""
    if stride == 1 and in_channels == out_channels:
        return None
    if kind == "zero_pad":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    if kind == "conv1x1":
        return nn.Sequential(
            conv1x1(in_channels, out_channels, stride, **layers.factory), layers.norm(out_channels)
        )
    return nn.Sequential(
        _shortcut_pool(stride, dilation),
        conv1x1(in_channels, out_channels, **layers.factory),
        layers.norm(out_channels),
    )


def _shortcut_pool(stride: int, dilation: int) -> nn.Module:
    if stride == 1 and dilation == 1:
        return nn.Identity()
    if dilation > 1:  # output_stride turned the stride into dilation: smooth, but keep the size
        return AvgPool2dSame(2, 1, ceil_mode=True, count_include_pad=False)
    return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)


class ResidualBlock(nn.Module):
    """What the two blocks have in common."""

    expansion: int
    last_norm: str

    def zero_last_norm(self) -> None:
        """Start the residual branch at zero, so that the block is the identity at first."""
        weight = getattr(self.get_submodule(self.last_norm), "weight", None)
        if isinstance(weight, nn.Parameter):  # a norm may have none
            nn.init.zeros_(weight)

    def fuse(self) -> "ResidualBlock":
        """This block with BatchNorm folded in; `timm.models.reparameterize_model` calls it."""
        fold_batch_norms(self)
        return self


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and the shortcut around them (ResNet-18 and -34)."""

    expansion, last_norm = 1, "bn2"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        dilation: int = 1,
        first_dilation: int | None = None,
        drop_path_rate: float = 0.0,
        layers: Layers = _PLAIN_LAYERS,
    ) -> None:
        super().__init__()
        first = first_dilation or dilation
        is_thinned = stride > 1 or first != dilation  # a stride that became dilation is low-passed as well
        conv_stride, factory = layers.conv_stride(stride), layers.factory
        self.conv1 = conv3x3(in_channels, out_channels, conv_stride, dilation=first, **factory)
        self.bn1 = layers.norm(out_channels)
        self.act1 = layers.act()
        self.aa = layers.low_pass(out_channels, stride, is_needed=is_thinned)
        self.conv2 = conv3x3(out_channels, out_channels, dilation=dilation, **factory)
        self.bn2 = layers.norm(out_channels)
        self.se = layers.attention(out_channels)  # the name that checkpoints know, whatever the attention
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.act2 = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, out_channels, height/stride, width/stride)."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.act1(out)
        out = self.aa(out)

        out = self.conv2(out)
        out = self.bn2(out)

        out = self.se(out)
        out = self.drop_path(out)
        out += self.downsample(x)
        return self.act2(out)


class Bottleneck(ResidualBlock):
    """1x1 down, 3x3, 1x1 up, and the shortcut around them (ResNet-50 and deeper)."""

    expansion, last_norm = 4, "bn3"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        dilation: int = 1,
        first_dilation: int | None = None,
        drop_path_rate: float = 0.0,
        layers: Layers = _PLAIN_LAYERS,
    ) -> None:
        super().__init__()
        first = first_dilation or dilation
        is_thinned = stride > 1 or first != dilation
        width = math.floor(out_channels * layers.group_width / 64) * layers.groups
        factory = layers.factory
        self.conv1 = conv1x1(in_channels, width, **factory)
        self.bn1 = layers.norm(width)
        self.act1 = layers.act()
        # The stride is in the 3x3 and not in the first 1x1 as in arXiv:1512.03385: torchvision's and timm's
        # checkpoints were trained this way ("v1.5") and give wrong logits otherwise.
        conv_stride = layers.conv_stride(stride)
        self.conv2 = conv3x3(width, width, conv_stride, groups=layers.groups, dilation=first, **factory)
        self.bn2 = layers.norm(width)
        self.act2 = layers.act()
        self.aa = layers.low_pass(width, stride, is_needed=is_thinned)
        self.conv3 = conv1x1(width, out_channels * self.expansion, **factory)
        self.bn3 = layers.norm(out_channels * self.expansion)
        self.se = layers.attention(out_channels * self.expansion)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.act3 = layers.act()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) -> (batch, 4 * out_channels, height/stride, width/stride)."""
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.act1(out)

        out = self.conv2(out)
        out = self.bn2(out)
        out = self.act2(out)
        out = self.aa(out)

        out = self.conv3(out)
        out = self.bn3(out)

        out = self.se(out)
        out = self.drop_path(out)
        out += self.downsample(x)
        return self.act3(out)
