"""Faster forms of a network for inference: BatchNorm folded, memory format and precision for the machine."""

import copy
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from resnet_hub.errors import ModelError
from resnet_hub.models.blocks import fold_batch_norms
from resnet_hub.models.variant import check_choice

__all__ = ["OptimizedModel", "fastest_precision", "fold_batch_norms", "optimize_for_inference"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE_IMAGES = 4
_ROUNDING = 1e-3
"""Share of the largest logit that float32 may lose in another order of its sums; 1e-5 is usual."""
_TF32_ROUNDING = 2e-2  # GPUs keep ten bits of the factors of a float32 convolution


@dataclass(frozen=True, kw_only=True)
class OptimizedModel:
    """A faster form of a network, and what that cost in exactness."""

    model: nn.Module = field(repr=False)
    """Takes and gives what the network did: images in any float format -> logits in float32."""
    folded: int
    """BatchNorms that became part of a convolution."""
    precision: str
    """Number format of weights and features: float32, bfloat16 or float16."""
    compiled: bool
    largest_deviation: float
    """Largest difference of a logit from the network's own in float32, over `num_images` random images."""
    largest_logit: float
    """Largest absolute logit of the network on the same images, to compare the deviation with."""
    num_images: int


def has_bf16_units(device: torch.device) -> bool:
    """Whether a CPU (AMX, AVX512-BF16) or GPU multiplies bf16 faster than float32; no emulation counts."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu = torch.cpu
    return device.type == "cpu" and bool(cpu._is_amx_tile_supported() or cpu._is_avx512_bf16_supported())


def fastest_precision(device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """The number format that the units of this machine compute convolutions fastest in."""
    if has_bf16_units(device):
        return "bfloat16"
    return "float16" if device.type == "cuda" else "float32"


def optimize_for_inference(
    model: nn.Module, *, precision: Precision = "auto", compile: bool = False
) -> OptimizedModel:
    """A faster form of `model` on its device; the model itself is left as it is.

    Args:
        model: A network of the family, or another of timm's whose layers were registered in the order they
            run.
        precision: Number format; auto takes the fastest that the machine has units for.
        compile: Compile as well: the first call takes a minute, and later ones are faster.

    Raises:
        ModelError: The precision is unknown, the network has no input size to try it on, or with its
            BatchNorms folded it does not compute the same.
    """
    check_choice("precision", precision, get_args(Precision))
    device = next(model.parameters()).device
    chosen = fastest_precision(device) if precision == "auto" else precision
    original = copy.deepcopy(model).eval().float()
    images = _probe_images(original, device)
    network = copy.deepcopy(original)
    with torch.no_grad():
        wanted = original(images)
        folded = fold_batch_norms(network)
        _check_folding(wanted, network(images), folded)
    dtype = _DTYPES[chosen]
    network.to(dtype=dtype).requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    fast: nn.Module = _Converted(network, dtype)
    if compile:
        # Freezing makes the weights constants of the program, so packs them for convolutions on a CPU.
        options: dict[str, Any] = {"freezing": True} if device.type == "cpu" else {}
        fast = torch.compile(fast, options=options)  # pyright: ignore[reportAssignmentType]  it stays a module
    with torch.no_grad():
        found = fast(images)
    return OptimizedModel(
        model=fast,
        folded=folded,
        precision=chosen,
        compiled=compile,
        largest_deviation=float((found - wanted).abs().max()),
        largest_logit=float(wanted.abs().max()),
        num_images=len(images),
    )


def _check_folding(wanted: Tensor, found: Tensor, folded: int) -> None:
    """Raise ModelError if the network with `folded` BatchNorms gives other logits than without."""
    deviation, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
    rounding = _ROUNDING if wanted.device.type == "cpu" else _TF32_ROUNDING
    if not deviation <= rounding * largest:  # nor if one is not a number
        raise ModelError(
            f"With {folded} BatchNorms folded into convolutions this network's logits differ by "
            f"{deviation:.2g}, and the largest of its own is {largest:.2g}: its layers do not run in the "
            "order in which they were registered, or its logits are no numbers. Nothing was changed; "
            "torch.compile(model.eval()) makes a faster form of any network."
        )


class _Converted(nn.Module):
    """A network in another precision and memory format behind the interface that it had."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_chans, height, width) -> (batch, num_classes)."""
        x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
        return self.network(x).float()


def _probe_images(model: nn.Module, device: torch.device) -> Tensor:
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    if "input_size" not in cfg:
        raise ModelError(
            "optimize_for_inference compares logits at the network's input size, and this network has none; "
            "make it with timm.create_model, or set model.pretrained_cfg['input_size']."
        )
    channels = getattr(model, "in_chans", cfg["input_size"][0])
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROBE_IMAGES, channels, *cfg["input_size"][1:], generator=generator).to(device)
