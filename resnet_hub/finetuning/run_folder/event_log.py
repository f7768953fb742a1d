"""The log of a run, `metrics.jsonl`: an event a line, and what a full disk does not take waits in memory."""

import json
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from resnet_hub.files import fsync, open_without_links, write_atomically

logger = logging.getLogger(__name__)

ENVELOPE = ("event", "step", "epoch", "time")
"""What each line of the log has besides the numbers of its event."""


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a log; lines that are damaged are passed over."""
    events = []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and {"event", "step"} <= event.keys():
                events.append(event)
    return events


class EventLog:
    """Appends events to a file; the only writer of it.

    A disk that is full for a while costs a run no event: they are written, in their order, as soon as there
    is room, and a checkpoint is written only after all events before it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting = ""
        self._has_warned = False

    def add(self, event: str, *, step: int, epoch: float, **values: Any) -> dict[str, Any]:
        """Append an event and give it as written; if the disk does not take it, warn once and keep it."""
        envelope = (event, step, round(epoch, 4), round(time.time(), 3))
        record = dict(zip(ENVELOPE, envelope, strict=True)) | values
        self._waiting += json.dumps(record, ensure_ascii=False) + "\n"
        try:
            self.flush()
        except OSError as error:
            if not self._has_warned:
                logger.warning("%s cannot be written (%s); its events wait in memory.", self._path, error)
            self._has_warned = True
        return record

    def flush(self) -> None:
        """Write what is waiting, all of it or nothing; raises OSError if the disk does not take it."""
        if not self._waiting:
            return
        size = self._size()
        try:
            with open_without_links(self._path, "a") as file:
                file.write(self._waiting)
        except OSError:
            if self._size() > size:  # a part of it, which would be there twice
                os.truncate(self._path, size)
            raise
        self._waiting, self._has_warned = "", False

    def size(self) -> int:
        """Length in bytes, kept in every checkpoint; all is on the disk. Raises OSError like `flush`."""
        self.flush()
        if self._path.exists():
            fsync(self._path)
        return self._size()

    def rewind(self, size: int) -> int:
        """Forget the events after a checkpoint, which the resumed run writes again; how many they were."""
        if self._size() <= size:
            return 0
        dropped = self._path.read_bytes()[size:].count(b"\n")
        os.truncate(self._path, size)
        return dropped

    def mend(self, size: int, *, step: int) -> None:
        """Drop what is no event, and warn if some of the `size` bytes before a step are lost."""
        events = read_events(self._path)
        whole = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events)
        if len(whole.encode()) < size:
            logger.warning(
                "%s is damaged: some of its events before step %d are lost, and the curves lack them. The "
                "weights are not concerned.",
                *(self._path, step),
            )
        if self._path.exists() and self._path.read_bytes() != whole.encode():
            write_atomically(self._path, whole)

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0
