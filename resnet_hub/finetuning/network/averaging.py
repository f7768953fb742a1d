"""Averages of the weights of a run, validated and exported in place of its last weights."""

from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

_POWER = 2 / 3  # timm's


class WeightAverage:
    """A network whose weights are an average of those of the trained one."""

    module: nn.Module
    """The averaged network."""
    is_ready = True
    """Whether it has averaged anything yet."""
    may_be_best = True
    """Whether a network validated now is one that was asked for."""

    def begin(self, network: nn.Module) -> None:
        """Start again from the weights of the network."""

    def after_step(self, network: nn.Module, step: int) -> None:
        """Take in the weights after an optimizer step, counted from 1."""

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """Take in the weights after an epoch, counted from 0."""


class StepAverage(WeightAverage):
    """The exponential moving average over all steps, with timm's warm-up of the decay.

    The average is over more steps the more there were, up to 1 / (1 - decay) of them: their number to the
    power of 2/3, or, in a run that is too short for that, their number itself.
    """

    def __init__(self, network: nn.Module, *, decay: float, total_steps: int) -> None:
        reaches_decay = (1 + total_steps / 2) ** _POWER >= 1 / (1 - decay)
        self._average = ModelEmaV3(
            network, decay=decay, use_warmup=True, warmup_power=_POWER if reaches_decay else 1.0
        )
        self.module = self._average.module

    def begin(self, network: nn.Module) -> None:
        """Start again from the weights of the network."""
        self._average.set(network)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Move the average towards the weights."""
        self._average.update(network, step=step)


class EpochAverage(WeightAverage):
    """The mean of the weights at the ends of all epochs from `first_epoch` on, of `num_epochs`.

    Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407) over the end of a run whose rate goes
    to zero. The epoch tells how many are averaged, so there is no count to lose.
    """

    def __init__(self, network: nn.Module, *, first_epoch: int, num_epochs: int, done_epochs: int) -> None:
        """Begin after `done_epochs` epochs; the averaged weights themselves come from the checkpoint."""
        self._average = AveragedModel(network)
        self.module = self._average.module
        self._first_epoch, self._num_epochs = first_epoch, num_epochs
        self._average.n_averaged.fill_(max(0, done_epochs - first_epoch))

    @property
    def is_ready(self) -> bool:
        """Whether an epoch has been taken in."""
        return int(self._average.n_averaged) > 0

    @property
    def may_be_best(self) -> bool:
        """Only the mean of all of them, however good an earlier epoch is by chance."""
        return int(self._average.n_averaged) == self._num_epochs - self._first_epoch

    def after_epoch(self, network: nn.Module, epoch: int) -> None:
        """Take in the weights, if the epoch is one of the last."""
        if epoch >= self._first_epoch:
            self._average.update_parameters(network)
