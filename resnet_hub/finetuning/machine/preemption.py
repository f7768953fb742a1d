"""Signals as a request to stop: at the next safe point, with everything saved, or at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import FrameType, TracebackType
from typing import Any, TypeVar

from resnet_hub.finetuning.machine.launcher import LAUNCHED, PREEMPTED, replace_handlers, restore_handlers
from resnet_hub.finetuning.machine.notebook import in_interruptible_thread, in_notebook

T = TypeVar("T")

EXIT_CODE = PREEMPTED
MESSAGE = "stopped by a signal; the same command resumes from here"
# torchrun, accelerate launch, resnet-hub finetune
_LAUNCHER_VARIABLES = ("TORCHELASTIC_RUN_ID", "ACCELERATE_DYNAMO_BACKEND", LAUNCHED)


class Preempted(Exception):
    """The run was asked to stop and has saved what it needs to resume."""

    def __str__(self) -> str:
        return "The run was stopped, and what it needs to resume is saved. The same call resumes it."


class PreemptionWatch:
    """Turns the signals that ask to stop into a flag while it is entered; a second SIGINT kills as usual.

    In a thread other than the main one, and in a notebook, signals are left to those whose they are.
    `accelerate launch` with one process dies on SIGTERM without telling its child, so a process that was
    started by a launcher also takes the launcher's death for a request to stop.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: Mapping[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._signal is not None or launcher_is_gone()

    def __enter__(self) -> "PreemptionWatch":
        launcher_is_gone()  # remembers who it is
        if threading.current_thread() is threading.main_thread() and not in_notebook():
            self._previous = replace_handlers(self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        restore_handlers(self._previous)

    def carry_out(self, work: Callable[[], T]) -> T:
        """What `work` gives; interrupting the kernel of a notebook asks it to stop as signals do elsewhere.

        Raises KeyboardInterrupt for a run that was stopped so.
        """
        if not in_notebook() or threading.current_thread() is not threading.main_thread():
            return work()
        try:
            return in_interruptible_thread(work, interrupt=lambda: self._note(signal.SIGINT, None))
        except Preempted as stopped:
            raise KeyboardInterrupt(str(stopped)) from None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


@contextmanager
def ending_at_once(say: Callable[[], None]) -> Iterator[None]:
    """While entered, a signal that asks to stop ends the process with EXIT_CODE, after `say`.

    For the moments in which nothing would be lost: before a run listens itself, and after its end.
    """
    launcher_is_gone()

    def end(number: int, frame: FrameType | None) -> None:
        say()
        os._exit(EXIT_CODE)  # an exception could be caught by whatever is being imported or sent

    previous = replace_handlers(end)
    try:
        yield
    finally:
        restore_handlers(previous)


def launcher_is_gone() -> bool:
    """Whether the launcher that started this process has ended; the first call remembers which one it is."""
    launcher = _launcher()
    return launcher is not None and os.getppid() != launcher


def was_launched() -> bool:
    """Whether torchrun, `accelerate launch` or `resnet-hub finetune` started this process."""
    return any(name in os.environ for name in _LAUNCHER_VARIABLES)


@cache
def _launcher() -> int | None:
    if not was_launched():
        return None
    ours = os.environ.get(LAUNCHED, "")  # it says who it is, so that it may die before anybody looks
    return int(ours) if ours.isdigit() else os.getppid()
