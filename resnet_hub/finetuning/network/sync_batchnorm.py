"""BatchNorm over the batches of all processes, on the CPU too."""

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the joined batch of all processes.

    torch.nn.SyncBatchNorm refuses CPU tensors; this one lets processes on CPUs compute what one process
    computes on the whole batch, with batches of different sizes on different processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalized `input`, (batch, channels, height, width)."""
        if not self.training:
            return super().forward(input)
        local_count = input.numel() // input.shape[1]
        count = float(all_reduce(input.new_tensor([local_count], dtype=torch.float64)))
        mean = all_reduce(input.float().sum(dim=(0, 2, 3))) / count
        centered = input.float() - mean[:, None, None]
        variance = all_reduce(centered.square().sum(dim=(0, 2, 3))) / count
        self._update_running_statistics(mean.detach(), variance.detach(), count)
        scale = (self.weight * torch.rsqrt(variance + self.eps))[:, None, None]
        return (centered * scale + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: float) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), momentum)


def synchronize_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with every BatchNorm2d made synchronous; names and values of the weights stay the same."""
    if device.type != "cpu":
        return convert_sync_batchnorm(model)  # timm's knows timm's own BatchNorm layers
    assert dist.is_initialized()
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            twin = CpuSyncBatchNorm2d(
                child.num_features,
                eps=child.eps,
                momentum=child.momentum,
                affine=child.affine,
                track_running_stats=child.track_running_stats,
            )
            twin.load_state_dict(child.state_dict())
            twin.train(child.training)
            setattr(model, name, twin)
        else:
            synchronize_batchnorm(child, device)
    return model
