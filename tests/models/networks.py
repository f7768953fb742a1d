"""Networks and images for tests that compare what two networks compute."""

import torch
from torch import nn


def trained(model: nn.Module) -> nn.Module:
    """The model with BatchNorms as if trained: the zeros and ones of new ones would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            nn.init.uniform_(module.bias, -0.1, 0.1, generator=generator)
            nn.init.uniform_(module.running_mean, -0.1, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return model


def images(size: int = 64, channels: int = 3) -> torch.Tensor:
    """Two images, the same each time: (2, channels, size, size)."""
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
