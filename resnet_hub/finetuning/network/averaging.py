"""Averages of the weights of a run, validated and exported in place of its last weights."""

from typing import Protocol

from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

_POWER = 2 / 3  # timm's


class WeightAverage(Protocol):
    """A network whose weights are an average of those of the trained one."""

    @property
    def module(self) -> nn.Module:
        """The averaged network."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it has averaged anything yet."""
        ...

    @property
    def may_be_best(self) -> bool:
        """Whether a network validated now is one that was asked for."""
        ...

    def begin(self, network: nn.Module) -> None:
        """Start anew from the weights of the network."""
        ...

    def after_step(self, network: nn.Module, step: int) -> None:
        """Take in the weights after an optimizer step, counted from 1."""
        ...

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 0."""
        ...


class StepAverage:
    """The exponential moving average over all steps, with timm's warm-up of the decay.

    The average is over more steps the more there were, up to 1 / (1 - decay) of them: their number to the
    power of 2/3, or, in a run that is too short for that, their number itself.
    """

    is_ready = True
    may_be_best = True

    def __init__(self, network: nn.Module, *, decay: float, total_steps: int) -> None:
        reaches_decay = (1 + total_steps / 2) ** _POWER >= 1 / (1 - decay)
        self._average = ModelEmaV3(
            network, decay=decay, use_warmup=True, warmup_power=_POWER if reaches_decay else 1.0
        )

    @property
    def module(self) -> nn.Module:
        """The averaged network."""
        return self._average.module

    def begin(self, network: nn.Module) -> None:
        """Start anew from the weights of the network."""
        self._average.set(network)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Take in the weights after an optimizer step, counted from 1."""
        self._average.update(network, step=step)

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """An epoch's end is nothing of its own."""


class EpochAverage:
    """The mean of the weights at the ends of all epochs from `first_epoch` on, of `num_epochs`.

    Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407) over the end of a run whose rate goes
    to zero. How many it has averaged follows from the epoch, so there is no count to lose.
    """

    def __init__(self, network: nn.Module, *, first_epoch: int, num_epochs: int, done_epochs: int) -> None:
        """Made anew after `done_epochs` epochs; the averaged weights themselves come from the checkpoint."""
        self._average = AveragedModel(network)
        self._first_epoch, self._num_epochs = first_epoch, num_epochs
        self._average.n_averaged.fill_(max(0, done_epochs - first_epoch))

    @property
    def module(self) -> nn.Module:
        """The averaged network."""
        return self._average.module

    @property
    def is_ready(self) -> bool:
        """Whether an epoch has been taken in."""
        return int(self._average.n_averaged) > 0

    @property
    def may_be_best(self) -> bool:
        """Only the mean of all of them, however good an earlier epoch is by chance."""
        return int(self._average.n_averaged) == self._num_epochs - self._first_epoch

    def begin(self, network: nn.Module) -> None:
        """Nothing to be done before the first epoch that counts, which replaces the weights."""

    def after_step(self, network: nn.Module, step: int) -> None:
        """A step is nothing of its own."""

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 0."""
        if epoch >= self._first_epoch:
            self._average.update_parameters(network)
