"""Experiment trackers of accelerate; whatever they do, the run continues."""

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
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType

from resnet_hub.errors import ConfigError
from resnet_hub.files import write_atomically

logger = logging.getLogger(__name__)

PROJECT = "resnet_hub"
SECONDS_BETWEEN_TRIES = 60.0
SHORT_TRY = 3.0  # seconds; after a longer one, as wandb's wait for a network, it is left alone for longer
IDENTITY = "tracker_id.txt"
"""File of a run's folder that holds the id by which trackers know the run again."""
_USUAL = ("tensorboard", "wandb", "trackio", "mlflow")


def tracker_names(report_to: str) -> list[str]:
    """The names in a comma-separated list, each once; `all` is those that are installed, `none` is none."""
    names: dict[str, None] = {}
    for name in report_to.split(","):
        names |= dict.fromkeys(_installed() if name.strip() == "all" else [name.strip()])
    return [name for name in names if name not in ("", "none")]


def check_trackers(report_to: str) -> None:
    """Raise ConfigError for a tracker that accelerate does not know or that is not installed."""
    names, of_accelerate = tracker_names(report_to), [str(name) for name in LoggerType]
    if "all" in report_to and not names:
        raise ConfigError("--report_to all: no tracker is installed. Install one: pip install tensorboard")
    there = [*_installed(), *(LOGGER_TYPE_TO_CLASS.keys() - of_accelerate)]  # the latter are the user's own
    for name in names:
        if name not in there and name in of_accelerate:
            raise ConfigError(f"--report_to {name} is not installed. Install it: pip install {name}")
        if name not in there:
            others = ", ".join(other for other in _USUAL if other not in there)
            raise ConfigError(
                f"--report_to {name} is not a tracker. Installed: {', '.join(there) or 'none'}; after "
                f"`pip install NAME` also {others} and accelerate's others."
            )


def _installed() -> list[str]:
    """Trackers of accelerate whose packages are installed, the usual ones first."""
    found = set(map(str, get_available_trackers()))
    return [name for name in _USUAL if name in found] + sorted(found.difference(_USUAL))


class Tracking:
    """Sends numbers to the trackers and survives their failures.

    Each tracker is on its own: one that fails is named once and tried again later, and the others continue.
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

        TensorBoard then drops what the killed process had sent from that step on; wandb and trackio continue
        the run that they have of this folder.
        """
        # Only the main process starts trackers, as with Accelerator.init_trackers, which lets one that fails
        # take all others and the run along.
        names = tracker_names(report_to) if accelerator.is_main_process else []
        plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
        first_step = going_on_from or 0
        self._trackers = [
            _Guarded(name, partial(_make, name, Path(folder), first_step=first_step), plain) for name in names
        ]
        for tracker in self._trackers:
            tracker.attempt(lambda running: None)

    def log(self, event: str, values: Mapping[str, float], *, step: int) -> None:
        """Send the numbers of an event, as `<event>/<name>`."""
        named = {f"{event}/{name}": value for name, value in values.items()}
        for tracker in self._trackers:
            tracker.attempt(lambda running: running.log(dict(named), step=step))

    def finish(self) -> None:
        """Let the trackers write what they still hold; the process group, which evaluation needs, stays."""
        for tracker in self._trackers:
            tracker.finish()


class _Guarded:
    """One tracker, started when it is first needed; it is left alone for a while after a failure."""

    def __init__(self, name: str, make: Callable[[], GeneralTracker], config: dict[str, Any]) -> None:
        self._name, self._make, self._config = name, make, config
        self._running: GeneralTracker | None = None
        self._has_failed = False
        self._quiet_until = -math.inf

    def attempt(self, call: Callable[[GeneralTracker], object]) -> None:
        """Call the tracker, unless it failed a short time ago; a failure is logged once."""
        begun = time.monotonic()
        if begun < self._quiet_until:
            return
        try:
            call(self._running or self._start())
        except Exception as error:  # a tracker is foreign code on a network; a run must outlive it
            if not self._has_failed:
                logger.warning(
                    "The tracker %s failed; the run continues, and tries it again after a minute or more: %r",
                    self._name,
                    error,
                )
            self._has_failed = True
            now = time.monotonic()
            self._quiet_until = now + SECONDS_BETWEEN_TRIES * max(1.0, (now - begun) / SHORT_TRY)

    def finish(self) -> None:
        """Let a tracker that was started write what it still holds, though it failed a short time ago."""
        self._quiet_until = -math.inf
        if self._running is not None:
            self.attempt(lambda running: running.finish())

    def _start(self) -> GeneralTracker:
        tracker = self._make()
        with _nobody_to_ask():
            tracker.start()
        self._running = tracker  # also if it does not take the configuration, which the folder has
        tracker.store_init_configuration(self._config)
        return tracker


def _make(name: str, folder: Path, *, first_step: int) -> GeneralTracker:
    """A tracker of accelerate or of the user's own, which shows a resumed run as one run."""
    title = folder.resolve().name
    options: dict[str, Any] = {}
    if name == "tensorboard":
        options = {"purge_step": first_step}
    elif name == "wandb":  # its variables win: a sweep, for one, tells its runs their ids
        run_id = os.environ.get("WANDB_RUN_ID") or _identity(folder)
        options = {"id": run_id, "name": os.environ.get("WANDB_NAME") or title, "resume": "allow"}
    elif name == "trackio":  # knows a run by its name alone, and other folders may be called the same
        options = {"name": f"{title}-{_identity(folder)}", "resume": "allow"}
    tracker = LOGGER_TYPE_TO_CLASS[name]
    place = (str(folder),) if tracker.requires_logging_directory else ()
    return tracker(PROJECT, *place, **options)


def _identity(folder: Path) -> str:
    """The id of the run in this folder, drawn when it is first asked for.

    Not made of the folder's path: a run in the place of one that was removed, or at the same path of another
    machine, is another run.
    """
    file = folder / IDENTITY
    known = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    if known:
        return known
    drawn = uuid.uuid4().hex[:12]
    write_atomically(file, f"{drawn}\n")
    return drawn


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """Standard input is no terminal meanwhile: a tracker without a login fails instead of asking for one."""
    typed = sys.stdin
    with Path(os.devnull).open(encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = typed
