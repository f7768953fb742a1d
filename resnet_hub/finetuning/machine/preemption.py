"""Signals as a request to stop: at the next safe point, with everything saved, or at once."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import Any, TypeVar

from resnet_hub.finetuning.machine.launcher import (
    PREEMPTED,
    STOP_SIGNALS,
    replace_handlers,
    restore_handlers,
)
from resnet_hub.finetuning.machine.lost_launcher import follow_launcher
from resnet_hub.finetuning.machine.notebook import in_interruptible_thread, in_notebook

T = TypeVar("T")

logger = logging.getLogger(__name__)

EXIT_CODE = PREEMPTED
MESSAGE = "stopped by a signal; the same command resumes from here"
_SECONDS_TO_FOLLOW = 2.0


class Preempted(Exception):
    """The run was asked to stop and has saved what it needs to resume."""

    def __str__(self) -> str:
        return "The run was stopped, and what it needs to resume is saved. The same call resumes it."


class PreemptionWatch:
    """Turns the signals that ask to stop into a flag while it is entered; a second SIGINT kills as usual.

    In a thread other than the main one, and in a notebook, signals are left to those whose they are.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous: Mapping[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether this process has been asked to stop."""
        return self._signal is not None

    def __enter__(self) -> "PreemptionWatch":
        if threading.current_thread() is threading.main_thread() and not in_notebook():
            self._previous = replace_handlers(self._note)
        follow_launcher()
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

    @contextmanager
    def nothing_begun(self) -> Iterator[None]:
        """While entered, a signal that is not followed in seconds ends the process: nothing would be lost.

        The main thread may be waiting for other processes in C++, where Python's handlers do not run, or for
        a download. A call from Python in a single process is left to wait, as this would end that Python.
        """
        end = self._previous.get(signal.SIGTERM)
        is_command = isinstance(end, _EndAtOnce)
        if is_command or (self._previous and os.environ.get("WORLD_SIZE", "1") != "1"):
            with _hearing(end if is_command else _EndAtOnce(lambda: logger.warning(MESSAGE))):
                yield
        else:
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number


class _EndAtOnce:
    """A handler that ends the process with EXIT_CODE."""

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = say

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        self._say()
        os._exit(EXIT_CODE)  # an exception could be caught by whatever is being imported or sent


@contextmanager
def ending_at_once(say: Callable[[], None]) -> Iterator[None]:
    """While entered, a signal that asks to stop ends the process with EXIT_CODE, after `say`.

    For the moments in which nothing would be lost: before a run listens itself, and after its end.
    """
    previous = replace_handlers(_EndAtOnce(say))
    follow_launcher()
    try:
        yield
    finally:
        restore_handlers(previous)


@contextmanager
def _hearing(end: Callable[[int], None]) -> Iterator[None]:
    """Call `end` if this is not left within seconds after a signal that asks to stop.

    Python's own handler in C writes the number of each signal to a socket, whatever the main thread does.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    is_left = Event()

    def listen() -> None:
        while number := ours.recv(1):
            if number[0] in STOP_SIGNALS and not is_left.wait(_SECONDS_TO_FOLLOW):
                end(number[0])

    previous = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        is_left.set()
        signal.set_wakeup_fd(previous)
        pythons.close()  # ends the thread
