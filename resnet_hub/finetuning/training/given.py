"""What a caller in Python gives as objects, beside the options that a file could hold."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.data.sources import Source
from resnet_hub.finetuning.report.metrics import OwnMetrics

Event = dict[str, Any]
"""A line of `metrics.jsonl`: `event` (fit_fc, train or validation), step, epoch, time, and measurements."""


class Callbacks:
    """Functions that hear of each event, on the main process, at points where the run could be stopped."""

    def __init__(self, callbacks: Iterable[Any] | Callable[[Event], Any] = ()) -> None:
        """Take functions of an event, or objects with such a method `on_event`; ConfigError for others."""
        several = callbacks if isinstance(callbacks, Iterable) else [callbacks]
        self._functions = [_function_of(callback) for callback in several]
        self._waiting: list[Event] = []
        self.error: BaseException | None = None
        """What a callback raised."""
        self.ask_to_end = False
        """Whether a callback has returned True."""

    def __bool__(self) -> bool:
        return bool(self._functions)

    def note(self, event: Event) -> None:
        """Keep an event until it can be told."""
        if self._functions:
            self._waiting.append(event)

    def tell(self) -> None:
        """Tell the events that were noted."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            for function in self._functions:
                try:
                    answer = function(dict(event))
                except BaseException as error:  # raised by all processes together, once all is saved
                    self.error = error
                    return
                self.ask_to_end |= isinstance(answer, bool | np.bool_) and bool(answer)


def _function_of(callback: Any) -> Callable[[Event], Any]:
    method = getattr(callback, "on_event", callback)
    if isinstance(callback, type) or not callable(method):
        raise ConfigError(
            f"{callback!r} is no callback. Give a function of one event, or an object with a method on_event."
        )
    return method


@dataclass(frozen=True, kw_only=True)
class Given:
    """Objects in place of names. A run's record knows network and data by their content."""

    network: nn.Module | None = None
    """Whose weights the run starts from; it is copied."""
    source: Source | None = None
    """The data set."""
    callbacks: Callbacks = field(default_factory=Callbacks)
    metrics: OwnMetrics = field(default_factory=dict)
    """Name -> function of labels and probabilities."""


NOTHING_GIVEN = Given()
