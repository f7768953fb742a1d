"""Experiment trackers by accelerate; whatever they do, the run goes on."""

import logging
from collections.abc import Mapping
from typing import Any, cast

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

from resnet_hub.errors import ConfigError, nearest

logger = logging.getLogger(__name__)


def tracker_names(report_to: str) -> list[str]:
    """The names in a comma-separated list; `none` and an empty text are none."""
    return [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]


def check_trackers(report_to: str) -> None:
    """Raise ConfigError for a tracker that accelerate does not know or that is not installed."""
    for name in tracker_names(report_to):
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"--report_to {name}: {nearest(name, LOGGER_TYPE_TO_CLASS)}")
        if not filter_trackers(cast(Any, [name]), logging_dir="."):
            raise ConfigError(f"--report_to {name}: install it first: pip install {name}")


class Tracking:
    """Sends numbers to the trackers and survives their failures, with one warning for each."""

    def __init__(
        self, accelerator: Accelerator, report_to: str, folder: str, config: Mapping[str, Any]
    ) -> None:
        self._accelerator = accelerator
        names = tracker_names(report_to)
        self._is_on = bool(names)
        self._has_failed = False
        if names:
            plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
            accelerator.log_with = filter_trackers(cast(Any, names), logging_dir=folder)
            accelerator.project_configuration.logging_dir = folder
            self._guarded(accelerator.init_trackers, "resnet_hub", config=plain)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of a step."""
        if self._is_on:
            self._guarded(self._accelerator.log, dict(values), step=step)

    def finish(self) -> None:
        """Let the trackers write what they still hold."""
        if self._is_on:
            # Accelerator.end_training would also end the process group, which evaluation still needs.
            for tracker in self._accelerator.trackers:
                self._guarded(tracker.finish)

    def _guarded(self, call: Any, *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except Exception as error:  # a tracker is foreign code on a network; a run must outlive it
            if not self._has_failed:
                logger.warning("A tracker failed and the run goes on without it: %r", error)
            self._has_failed = True
