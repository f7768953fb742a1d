"""Faults on demand: what a Hub, a proxy or a network does wrong, to the next answers that match."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Fault:
    """Spoil the next `times` requests whose "METHOD /path" matches `where`; one way of spoiling each.

    Attributes:
        status: answer with this status, and `headers`, instead.
        after: carry the request out first, then spoil the answer (a commit that happened all the same).
        drop: close the connection without an answer.
        cut_at: send this share of the body, then close the connection.
        short_by: send a body that is shorter by so many bytes, and say so in Content-Length.
        corrupt: flip a bit in the middle of the body.
        delay: wait so many seconds before answering.
        body: answer 200 with this text instead, as a captive portal does.
        meanwhile: something that happens just before the request is carried out.
        ignore_range: answer a range request with the whole body.
    """

    where: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] | None = None
    after: bool = False
    drop: bool = False
    cut_at: float | None = None
    short_by: int = 0
    corrupt: bool = False
    delay: float = 0.0
    body: str | None = None
    meanwhile: Callable[[], object] | None = None
    ignore_range: bool = False
    met: int = 0
    """How many requests were spoiled so far."""


class Faults:
    """The faults that wait for their request."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        with self.lock:
            self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        with self.lock:
            self.waiting.clear()

    def take(self, request: str) -> Fault | None:
        """The first fault for this request, counted down."""
        with self.lock:
            for fault in self.waiting:
                if fault.met < fault.times and re.search(fault.where, request):
                    fault.met += 1
                    return fault
        return None
