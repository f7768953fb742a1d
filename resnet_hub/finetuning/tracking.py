"""Experiment trackers by accelerate; whatever they do, the run goes on."""

import logging
import math
import time
from collections.abc import Mapping
from typing import Any, cast

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

from resnet_hub.errors import ConfigError, nearest

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_TRIES = 60.0


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
    """Sends numbers to the trackers and survives their failures.

    A failure is said once, and the trackers are left alone for a minute: each call may wait for a network.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        report_to: str,
        folder: str,
        config: Mapping[str, Any],
        *,
        going_on_from: int | None = None,
    ) -> None:
        """Start the trackers; `going_on_from` is the step of the checkpoint of a resumed run.

        TensorBoard then drops what the killed process had sent from that step on.
        """
        self._accelerator = accelerator
        names = tracker_names(report_to)
        self._is_on = bool(names)
        self._has_failed = False
        self._quiet_until = -math.inf
        if names:
            plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
            accelerator.log_with = filter_trackers(cast(Any, names), logging_dir=folder)
            accelerator.project_configuration.logging_dir = folder
            options = {} if going_on_from is None else {"tensorboard": {"purge_step": going_on_from}}
            self._guarded(accelerator.init_trackers, "resnet_hub", config=plain, init_kwargs=options)

    def log(self, event: str, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of an event, as `<event>/<name>`."""
        if self._is_on:
            named = {f"{event}/{name}": value for name, value in values.items()}
            self._guarded(self._accelerator.log, named, step=step)

    def finish(self) -> None:
        """Let the trackers write what they still hold."""
        if self._is_on:
            self._quiet_until = -math.inf
            # Accelerator.end_training would also end the process group, which evaluation still needs.
            for tracker in self._accelerator.trackers:
                self._guarded(tracker.finish)

    def _guarded(self, call: Any, *arguments: Any, **options: Any) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            call(*arguments, **options)
        except Exception as error:  # a tracker is foreign code on a network; a run must outlive it
            if not self._has_failed:
                logger.warning("A tracker failed; the run goes on, and tries it once a minute: %r", error)
            self._has_failed = True
            self._quiet_until = time.monotonic() + SECONDS_BETWEEN_TRIES
