"""The processes of a run that prepare images together, and how they speak and stop together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from resnet_hub.cores import available_cores
from resnet_hub.finetuning.machine.display import Display


def _never() -> None:
    pass


def _mine_are_all(mine: list[Any]) -> list[Any]:
    return mine


@dataclass(frozen=True, kw_only=True)
class Crew:
    """One process among those that share a piece of work; without arguments it does all of it, in silence."""

    rank: int = 0
    world_size: int = 1
    num_threads: int = field(default_factory=available_cores)
    gather: Callable[[list[Any]], list[Any]] = _mine_are_all
    """The lists of all processes, one after the other; every process calls it equally often."""
    stop_if_asked: Callable[[], None] = _never
    """Raises where the run has been asked to stop; every process calls it equally often."""
    display: Display = field(default_factory=partial(Display, is_main=False))
