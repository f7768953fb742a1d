"""What a training step works with, and how far a run is."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from resnet_hub.finetuning.engine.deferred_metrics import Measured
from resnet_hub.finetuning.engine.losses import Distillation, LossFunction
from resnet_hub.finetuning.engine.optimizer import Schedule
from resnet_hub.finetuning.engine.stopwatch import Stopwatch
from resnet_hub.finetuning.machine.machine import Machine
from resnet_hub.images.preprocessing import Preprocessing

Mixer = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(kw_only=True)
class Progress:
    """How far a run is; the part of its state that is not tensors. Every field is in each checkpoint."""

    step: int = 0
    """Optimizer steps done."""
    fc_is_fitted: bool = False
    is_over: bool = False
    """All steps are done, or the time is used up; a resumed run goes straight to its report."""
    evaluated_epochs: int = 0
    averaged_epochs: int = 0
    """Epochs that the average over epochs has taken in, or passed over because they come too early."""
    seconds: float = 0.0
    """Wall time of training and validation, over all starts of the run."""
    seconds_before_steps: float = 0.0
    """How many of them had passed when the first step began."""
    schedule_epoch: int = 0
    """The epoch that the schedule is at: the epoch itself, or a later one where time runs faster."""
    images: int = 0
    best_score: float = -math.inf
    """By the metric that the best weights are chosen by; higher is better."""
    best_loss: float = math.inf
    best_epoch: int = 0
    linear_probe_score: float | None = None
    best_epoch_score: float | None = None
    """By the same metric, of the best trained epoch, whether or not it beat the linear probe."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the steps since the last event, so that a resumed run logs what an uninterrupted one does."""
    parts: int = 1
    """Parts that each micro-batch is computed in, because as a whole it does not fit into memory."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Row -> what is wrong with its image, of the training images that a stream has left out so far."""
    station_seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went on this process, over all starts of the run: see `stopwatch.STATIONS`."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """What a training step works with."""

    model: nn.Module
    """As accelerate prepared it."""
    compiled: Callable[[Tensor], Tensor] | None = None
    """The same network, compiled, for the steps of training."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    loss_function: LossFunction
    preprocessing: Preprocessing
    machine: Machine
    stopwatch: Stopwatch
    seed: int
    max_grad_norm: float = math.inf
    max_seconds: float = math.inf
    mix: Mixer | None = None
    distillation: Distillation | None = None
    reads_late: bool = False
    """Whether measurements of a step are read while the next one runs: see `deferred_metrics.py`."""
    unread: deque[Measured] = field(default_factory=deque)
    """Measurements that have not been read yet."""
    recomputes: bool = False
    """Whether the backward pass computes features again (gradient checkpointing)."""
    known_to_fit: set[tuple[torch.Size, int]] | None = None
    """Kinds of steps that fit into memory; None on devices where none is tried: see `micro_batch.py`."""

    def share_of_time(self, progress: Progress) -> float:
        """Part of the time limit for steps that is used up, the same on every process; 0 without a limit.

        What came before the first step, such as fitting fc, does not count.
        """
        if self.max_seconds == math.inf:
            return 0.0
        left = self.max_seconds - progress.seconds_before_steps
        share = (progress.seconds - progress.seconds_before_steps) / left if left > 0 else 1.0
        return self.machine.largest(share)
