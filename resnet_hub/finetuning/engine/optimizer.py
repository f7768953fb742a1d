"""Optimizer and learning-rate schedule; the rate is a function of the step, so there is no state to lose."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from resnet_hub.finetuning.config.options import Optimizer


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up to `peak_rate`, then a half cosine to zero (Loshchilov and Hutter, arXiv:1608.03983)."""

    peak_rate: float
    warmup_steps: int
    total_steps: int

    def rate(self, step: int, *, share_of_time: float = 0.0) -> float:
        """Learning rate of a step, counted from 0.

        `share_of_time` is the part of a time limit that is used up: when time runs faster than steps do,
        warm-up and cosine follow the time, so that a run that ends by the clock has a finished schedule.
        """
        done = max(step / self.total_steps, share_of_time)
        warmup = self.warmup_steps / self.total_steps
        if done < warmup:
            return self.peak_rate * (done * self.total_steps + 1) / self.warmup_steps
        cooled = (done - warmup) / (1 - warmup) if warmup < 1 else 1.0
        return self.peak_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, cooled)))


# timm's name for each, and whether torch has a version that walks all parameters in one call.
_OPTIMIZERS: dict[Optimizer, dict[str, Any]] = {
    "adamw": {"opt": "adamw", "fused": True},
    "sgd": {"opt": "sgd", "momentum": 0.9, "fused": True},
    "momentum": {"opt": "momentum", "momentum": 0.9, "fused": True},
    "lamb": {"opt": "lamb"},
}


def make_optimizer(
    model: nn.Module, name: Optimizer = "adamw", *, weight_decay: float, layer_decay: float = 1.0
) -> torch.optim.Optimizer:
    """The optimizer with weight decay on convolution and fc weights only, none on norms and biases.

    The rate is set before every step (`set_rate`). With `layer_decay` below 1 each block learns at that
    fraction of the rate of the block above it (Clark et al. 2020, arXiv:2003.10555, section 3.2).
    """
    return create_optimizer_v2(
        model,
        lr=0.0,
        weight_decay=weight_decay,
        layer_decay=None if layer_decay == 1 else layer_decay,
        **_OPTIMIZERS[name],
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the rate, times its own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
