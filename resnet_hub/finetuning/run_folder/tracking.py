"""Experiment trackers of accelerate; whatever they do, the run goes on."""

import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import (
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
    get_available_trackers,
)
from accelerate.utils import LoggerType

from resnet_hub.errors import ConfigError, nearest
from resnet_hub.files import write_atomically

logger = logging.getLogger(__name__)

PROJECT = "resnet_hub"
ALL = "all"

SECONDS_BETWEEN_TRIES = 60.0
SHORT_TRY = 3.0  # seconds; after a longer one the tracker is left alone for as many times longer
IDENTITY = "tracker_id.txt"
"""File of a run's folder that holds the id by which trackers know the run again."""


def tracker_names(report_to: str) -> list[str]:
    """The names in a comma-separated list, each once; `all` is those that are installed, `none` is none."""
    names: dict[str, None] = {}
    for name in report_to.split(","):
        found = map(str, get_available_trackers()) if name.strip() == ALL else [name.strip()]
        names |= dict.fromkeys(found)
    return [name for name in names if name not in ("", "none")]


def check_trackers(report_to: str) -> None:
    """Raise ConfigError for a tracker that accelerate does not know or that is not installed."""
    names, installed = tracker_names(report_to), set(map(str, get_available_trackers()))
    if not names and ALL in report_to:
        raise ConfigError(
            f"--report_to {report_to}: no tracker is installed; install one first, such as: "
            f"pip install tensorboard"
        )
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(f"--report_to {name}: {nearest(name, [*LOGGER_TYPE_TO_CLASS, ALL])}")
        if name in set(map(str, LoggerType)) - installed:
            raise ConfigError(f"--report_to {name}: install it first: pip install {name}")


class Tracking:
    """Sends numbers to the trackers and survives their failures.

    Each tracker is on its own: one that fails is named once and tried again later, and the others go on.
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

        TensorBoard then drops what the killed process had sent from that step on; wandb and trackio go on
        with the run that they have of this folder.
        """
        # Every process comes here, and as with Accelerator.init_trackers only the main one starts trackers:
        # `main_process_only = False`, which wandb has, would give one run for each process.
        names = tracker_names(report_to) if accelerator.is_main_process else []
        plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
        self._trackers = [
            _Guarded(name, partial(_make, name, Path(folder), first_step=going_on_from or 0), plain)
            for name in names
        ]
        for tracker in self._trackers:
            tracker.start()

    def log(self, event: str, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of an event, as `<event>/<name>`."""
        named = {f"{event}/{name}": value for name, value in values.items()}
        for tracker in self._trackers:
            tracker.log(named, step=step)

    def finish(self) -> None:
        """Let the trackers write what they still hold."""
        # Accelerator.end_training would also end the process group, which evaluation still needs.
        for tracker in self._trackers:
            tracker.finish()


class _Guarded:
    """One tracker; its failures are said once and cost the run no more than a twentieth of its time."""

    def __init__(self, name: str, make: Callable[[], GeneralTracker], config: dict[str, Any]) -> None:
        self._name = name
        self._make = make
        self._config = config
        self._started: GeneralTracker | None = None
        self._has_failed = False
        self._quiet_until = -math.inf

    def start(self) -> None:
        """Start the tracker; if that fails, the next numbers start it."""
        self._try(self._running)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers, unless the tracker is being left alone."""
        self._try(lambda: self._running().log(dict(values), step=step))

    def finish(self) -> None:
        """Let a tracker that was started write what it still holds."""
        self._quiet_until = -math.inf
        if self._started is not None:
            self._try(self._started.finish)

    def _running(self) -> GeneralTracker:
        if self._started is None:
            tracker = self._make()
            with _nobody_to_ask():
                tracker.start()
            self._started = tracker  # also if it does not take the configuration, which the folder has
            tracker.store_init_configuration(self._config)
        return self._started

    def _try(self, call: Callable[[], object]) -> None:
        begun = time.monotonic()
        if begun < self._quiet_until:
            return
        try:
            call()
        except Exception as error:  # a tracker is foreign code on a network; a run must outlive it
            if not self._has_failed:
                logger.warning(
                    "The tracker %s failed; the run goes on, and tries it again after a minute or more: %r",
                    self._name,
                    error,
                )
            self._has_failed = True
            now = time.monotonic()
            # A try may wait for a network: wandb.init does so for 90 seconds.
            self._quiet_until = now + SECONDS_BETWEEN_TRIES * max(1.0, (now - begun) / SHORT_TRY)


def _make(name: str, folder: Path, *, first_step: int) -> GeneralTracker:
    """A tracker of accelerate or of the user's own, not yet started."""
    tracker = LOGGER_TYPE_TO_CLASS[name]
    options = _options(name, folder, first_step=first_step)
    if tracker.requires_logging_directory:
        return tracker(PROJECT, str(folder), **options)
    return tracker(PROJECT, **options)


def _options(name: str, folder: Path, *, first_step: int) -> dict[str, Any]:
    """What makes a tracker show a resumed run, or one begun anew in its folder, as one run."""
    title = folder.resolve().name
    if name == "tensorboard":
        return {"purge_step": first_step}
    if name == "wandb":  # its variables win: a sweep, for one, tells its runs their ids
        run_id = os.environ.get("WANDB_RUN_ID") or _identity(folder)
        return {"id": run_id, "name": os.environ.get("WANDB_NAME") or title, "resume": "allow"}
    if name == "trackio":  # knows a run by its name alone, and other folders may be called the same
        return {"name": f"{title}-{_identity(folder)}", "resume": "allow"}
    return {}


def _identity(folder: Path) -> str:
    """The id of the run in this folder, drawn when it is first asked for.

    Not made of the folder's path: a run in the place of one that was removed, or at the same path of another
    machine, is another run.
    """
    file = folder / IDENTITY
    known = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if known:  # a loss of power may have left the file empty
        return known
    drawn = uuid.uuid4().hex[:12]
    write_atomically(file, f"{drawn}\n")
    return drawn


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """Standard input is no terminal meanwhile: a tracker without a login fails in place of asking for one."""
    typed = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = typed
