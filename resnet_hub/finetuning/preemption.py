"""Signals as a request to stop at the next safe point, with everything saved."""

import logging
import os
import signal
from types import FrameType, TracebackType

logger = logging.getLogger(__name__)

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: "try again later"
# torchrun, accelerate launch, resnet-hub finetune
_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND", "RESNET_HUB_LAUNCHED")


class Preempted(Exception):
    """The run was asked to stop and has saved what it needs to go on."""


class PreemptionWatch:
    """Turns SIGTERM and SIGINT into a flag while it is entered; a second SIGINT kills as usual.

    `accelerate launch` with one process dies on SIGTERM without telling its child, so a process that was
    started by a launcher also takes the launcher's death for a request to stop.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: dict[int, object] = {}
        launched = any(name in os.environ for name in _LAUNCHER_VARIABLES)
        self._launcher = os.getppid() if launched else None

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._signal is not None or (self._launcher is not None and os.getppid() != self._launcher)

    def __enter__(self) -> "PreemptionWatch":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
