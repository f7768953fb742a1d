"""`Variant`, the record that sets one member of the family apart from the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from resnet_hub.errors import ModelError

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["conv7", "deep", "tiered", "conv3"]
Shortcut = Literal["conv1x1", "avgpool", "zero_pad"]
AntiAlias = Literal["", "avg", "blur"]
ATTENTIONS = (
    "",
    "se",
    "ese",
    "eca",
    "ecam",
    "ceca",
    "ge",
    "gc",
    "gca",
    "cbam",
    "lcbam",
    "coord",
    "scoord",
    "ela",
)
GLOBAL_POOLS = (
    "avg",
    "max",
    "avgmax",
    "catavgmax",
    "fast",
    "fastavg",
    "fastmax",
    "fastavgmax",
    "fastcatavgmax",
    "",
)

STEM_STRIDES = {
    "conv7": (2, 4),
    "deep": (2, 4),
    "tiered": (2, 4),
    "conv3": (1, 1),
}  # after act1, after maxpool
MAX_STAGES = 4


def check_choice(what: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ModelError, naming what is allowed, unless `value` is among it."""
    if value not in allowed:
        shown = ", ".join(repr(choice) for choice in allowed)
        raise ModelError(f"{what}={value!r} is not known; choose one of {shown}.")


def check_rate(what: str, value: float) -> None:
    """Raise ModelError unless `value` is a share of 0 or more and less than 1."""
    if not 0 <= value < 1:
        raise ModelError(f"{what}={value!r} is not a share; give a number from 0 up to, but not, 1.")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What sets one member of the family apart from the others; a frozen row of a table."""

    block: BlockKind
    depths: tuple[int, ...]
    """Number of residual blocks in each stage; one to four stages."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Width of each stage; a stage gives `width` channels if basic, `4 * width` if bottleneck."""
    stem: Stem = "conv7"
    """conv7: 7x7 stride 2 and max-pooling (arXiv:1512.03385); deep, tiered: three 3x3 convolutions and
    max-pooling (ResNet-C, arXiv:1812.01187); conv3: one 3x3, stride 1, no pooling, for 32-pixel images."""
    stem_width: int = 64
    """Channels that leave the stem."""
    shortcut: Shortcut = "conv1x1"
    """How the shortcut changes size: conv1x1 (option B of arXiv:1512.03385); avgpool before an unstrided 1x1
    (ResNet-D, arXiv:1812.01187); zero_pad, without parameters (option A)."""
    groups: int = 1
    """Groups of the 3x3 convolution in a bottleneck (ResNeXt's cardinality, arXiv:1611.05431)."""
    group_width: int = 64
    """Channels of a group in the first stage: 64 in ResNet, 128 in Wide ResNet-50-2, 4 in ResNeXt 32x4d."""
    attn: str = ""
    """Channel attention at the end of each block, by timm's name: se (arXiv:1709.01507), eca ..."""
    anti_alias: AntiAlias = ""
    """Low-pass filter before every stride: blur (arXiv:1904.11486) or avg (2x2 mean)."""

    def __post_init__(self) -> None:
        check_choice("block", self.block, get_args(BlockKind))
        check_choice("stem", self.stem, get_args(Stem))
        check_choice("shortcut", self.shortcut, get_args(Shortcut))
        check_choice("attn", self.attn, ATTENTIONS)
        check_choice("anti_alias", self.anti_alias, get_args(AntiAlias))
        if not 1 <= len(self.depths) <= MAX_STAGES or min(self.depths) < 1:
            raise ModelError(
                f"depths={self.depths} does not describe a network; give one to four stages of at least one "
                "block, such as depths=(2, 2, 2, 2)."
            )
        if len(self.widths) != len(self.depths):
            raise ModelError(
                f"depths={self.depths} and widths={self.widths} differ in length; "
                "give one width for each stage."
            )
        if min(*self.widths, self.stem_width, self.groups, self.group_width) < 1:
            raise ModelError("widths, stem_width, groups and group_width must be positive.")
        if self.block == "basic" and (self.groups, self.group_width) != (1, 64):
            raise ModelError(
                'groups and group_width change the bottleneck; set block="bottleneck" to use them.'
            )
