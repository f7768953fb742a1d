"""How much memory images may take: each file, and all that are being decoded, however many threads do it."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_FILE_BYTES = 2**29
"""Above it a file is refused unread: the largest image that is decoded takes 8 bytes a pixel at most."""

_BYTES_PER_PIXEL = 16  # while Pillow converts transparent or 16-bit images; others take half of it
_SMALL_BYTES = 2**25  # of an image of two megapixels: too little to wait for
_LEAST_AT_ONCE = 2**30
_SHARE_OF_MEMORY = 8


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file; ValueError, in a few words, for one that is larger than any image.

    Raises OSError as well. A file may say that it is small and hold more, as those of /dev do, so no more
    than the limit is ever read.
    """
    with open(path, "rb") as file:  # noqa: PTH123  a Path costs as much as reading a small file
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > MAX_FILE_BYTES else file.read(MAX_FILE_BYTES + 1)
    check_file_bytes(max(size, len(data)))
    return data


def check_file_bytes(size: int) -> None:
    """Raise ValueError, in a few words, for more bytes than any image has."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"too large: a file of {size:,} bytes, the limit is {MAX_FILE_BYTES:,}")


class MemoryBudget:
    """Bytes that the threads of a process may take together; whoever asks for too many waits."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until so many bytes are left, or until nobody else has any, and have them in the block."""
        size = min(size, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


def _memory_bytes() -> int:
    """Memory of the machine or of the control group that the process is in; 0 where nothing tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 0
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such file, or `max`
        return total


def _new_budget() -> MemoryBudget:
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return MemoryBudget(max(_LEAST_AT_ONCE, _memory_bytes() // _SHARE_OF_MEMORY // processes))


_budget = _new_budget()


def _after_fork() -> None:
    """A child has none of the threads that were decoding, and must not wait for them."""
    global _budget  # noqa: PLW0603
    _budget = _new_budget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def decoding(width: int, height: int) -> Iterator[None]:
    """Wait until an image of this size can be decoded beside those that other threads decode."""
    size = width * height * _BYTES_PER_PIXEL
    if size <= _SMALL_BYTES:
        yield
        return
    with _budget.take(size):
        yield
