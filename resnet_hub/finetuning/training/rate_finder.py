"""A learning-rate range test: what the loss does while the rate of a run's own steps grows exponentially.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186, section 3.3. Too low a
rate changes nothing, a good one lowers the loss, and too high a one raises it; the suggestion lies between.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import numpy as np

from resnet_hub.errors import RunError
from resnet_hub.files import write_atomically
from resnet_hub.finetuning.engine.micro_batch import steps_that_fit
from resnet_hub.finetuning.engine.optimizer import Schedule
from resnet_hub.finetuning.engine.step import TrainingDivergedError, train_steps
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.network.freezing import num_frozen_stages, train_all_but
from resnet_hub.finetuning.report.figures import new_figure, save_figure
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.state import Training

LOWEST_RATE, HIGHEST_RATE = 1e-6, 1.0
NUM_STEPS = 120  # 20 for each factor of ten
_MEMORY = 0.9  # of the running mean of the loss: it follows within ten steps, half a factor of ten
_DIVERGED = 4.0  # times the lowest loss so far; fastai's
_FEWEST_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class RateSearch:
    """The rates that were tried, what the loss was, and what follows."""

    suggestion: float
    """In the middle of the longest descent of the loss."""
    steepest: float
    """Where the loss falls fastest."""
    by_rule: float
    """What the run would use without a search, or what was asked for."""
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """Training loss of each step, before it."""
    smoothed: tuple[float, ...]
    diverged: bool
    """Whether the loss went through the roof before the highest rate."""

    def describe(self) -> str:
        """What a person reads after a search."""
        return (
            f"suggestion  {self.suggestion:.2g} (steepest at {self.steepest:.2g}; without a search "
            f"{self.by_rule:.2g})\n"
            f"next        type the same command with --learning_rate {self.suggestion:.2g} in place of "
            f"--find_learning_rate"
        )

    def save(self, folder: RunFolder) -> None:
        """Write the picture and, last, the numbers."""
        figure = new_figure(width=6, height=3.6)
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, linewidth=0.8, alpha=0.4, label="loss of each step")
        axes.plot(self.rates, self.smoothed, label="running mean")
        axes.axvline(self.suggestion, color="tab:green", label=f"suggestion {self.suggestion:.2g}")
        axes.axvline(self.steepest, color="tab:gray", linestyle=":", label=f"steepest {self.steepest:.2g}")
        axes.axvline(self.by_rule, color="tab:orange", linestyle="--", label=f"without it {self.by_rule:.2g}")
        axes.set(xlabel="learning rate", ylabel="training loss", xscale="log")
        axes.set_ylim(0, 1.1 * max(self.losses[0], 2 * max(self.smoothed[: len(self.smoothed) // 2])))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        save_figure(figure, folder.rate_picture)
        write_atomically(folder.rate_record, json.dumps(asdict(self), indent=2) + "\n")


def search_rate(run: Run, training: Training) -> RateSearch:
    """Train with a rate that grows with each step, until the loss diverges; the network is spoilt by it.

    Images, augmentation, loss and optimizer are those of the run's first steps, so the result is a function
    of its configuration. Every process calls this, and every one gets the result. Raises Preempted when asked
    to stop.
    """
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, diverged = 0.0, False
    try:
        for measured in _train_with_growing_rate(run, training):
            rates.append(measured["learning_rate"])
            losses.append(measured["loss"])
            mean = _MEMORY * mean + (1 - _MEMORY) * losses[-1]
            smoothed.append(mean / (1 - _MEMORY ** len(losses)))
            diverged = smoothed[-1] > _DIVERGED * min(smoothed)
            if diverged:
                break
    except TrainingDivergedError:
        diverged = True
    if len(losses) < _FEWEST_STEPS:
        raise RunError(
            f"The loss diverges within {len(losses)} steps at rates from {LOWEST_RATE:g} on, where nothing "
            f"should happen yet. Look at the data and at the weights that it starts from."
        )
    return RateSearch(
        suggestion=valley(rates, smoothed),
        steepest=steepest(rates, smoothed),
        by_rule=run.settings.optimizer.learning_rate,
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        diverged=diverged,
    )


def valley(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate in the middle of the longest descent, a sequence of ever lower losses, neighbours or not.

    This is the `valley` of fastai's `lr_find` (fastai/callback/schedule.py).
    """
    lengths = np.ones(len(losses), dtype=int)
    values = np.asarray(losses)
    for place in range(1, len(values)):
        lower = values[:place] > values[place]
        lengths[place] = 1 + lengths[:place][lower].max(initial=0)
    end = int(lengths.argmax())
    start = end - int(lengths[end]) + 1
    return rates[start + round((end - start) / 2)]


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the loss falls fastest over the logarithm of the rate."""
    return rates[int(np.gradient(np.asarray(losses), np.log(rates)).argmin())]


@dataclass(frozen=True, kw_only=True)
class _Growing(Schedule):
    """The same factor from each step to the next, from the lowest rate to `peak_rate`."""

    def rate(self, step: int, *, share_of_time: float = 0.0) -> float:
        return LOWEST_RATE * (self.peak_rate / LOWEST_RATE) ** (step / (self.total_steps - 1))


def _train_with_growing_rate(run: Run, training: Training) -> Iterator[dict[str, Any]]:
    """What is measured after each step."""
    growing = _Growing(peak_rate=HIGHEST_RATE, warmup_steps=0, total_steps=NUM_STEPS)
    trainer = replace(training.trainer, schedule=growing, max_seconds=math.inf, reads_late=False)
    progress = Progress()
    train_all_but(training.network, num_frozen_stages(run.settings.freezing, training.network, 0))
    for epoch in count():
        steps = steps_that_fit(trainer, progress, training.batches.epoch(epoch), epoch=epoch)
        for measured in train_steps(trainer, progress, steps, epoch=epoch):
            speed = run.plan.global_batch_size / measured["seconds"]
            run.display.step(progress.step, total=NUM_STEPS, loss=measured["loss"], images_per_second=speed)
            yield measured
            run.stop_if_asked()
            if progress.step == NUM_STEPS:
                return
