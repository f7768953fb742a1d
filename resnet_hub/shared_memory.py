"""The memory in which data-loader workers hand over batches: how many batches may wait in it."""

import logging
import math
import os
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = Path("/dev/shm")
ADVICE = "docker run --shm-size 8g or --ipc=host makes it larger"
_MOST_BYTES = 4e9  # that wait in a process; more of them would not arrive sooner
_SHARE = 0.8  # of what is free now
_QUEUE_BYTES = 262_144  # semaphores of the queues of several loaders, a page each
_PAGES = 3 * 4096  # at most lost to rounding the parts of a batch up
_IN_USE = 3  # batches that were handed over and are not freed yet


def fit_workers(
    num_workers: int, ahead: int, *, batch_bytes: int, processes: int = 1, folder: Path = FOLDER
) -> tuple[int, int]:
    """Data-loader workers, and batches that each may read ahead: as wished, or as many as fit into memory.

    What does not fit ends a worker with a bus error. Fewer batches are read ahead first; where one for each
    worker is too many there are fewer workers, down to none. Logs a warning where shared memory is the cause.

    Args:
        num_workers: As many as are wished.
        ahead: Batches that each of them is to read ahead.
        batch_bytes: Size of the largest batch.
        processes: Processes of this machine that have as many workers.
        folder: What the system keeps shared memory in.
    """
    if num_workers == 0:
        return 0, ahead
    room = min(_free_bytes(folder) * _SHARE / processes - _QUEUE_BYTES, _MOST_BYTES)
    fits = int(room / (batch_bytes + _PAGES)) - _IN_USE
    workers = max(0, min(num_workers, fits))
    there_are = workers, min(ahead, fits // workers) if workers else ahead
    if there_are != (num_workers, ahead) and room < _MOST_BYTES:
        logger.warning(
            "%s has %.3g MB free, and a batch takes %.3g MB: %d loader processes read %d batches ahead "
            "in place of %d that read %d. In a container, %s.",
            *(folder, _free_bytes(folder) / 1e6, batch_bytes / 1e6, *there_are, num_workers, ahead, ADVICE),
        )
    return there_are


def _free_bytes(folder: Path) -> float:
    if not (hasattr(os, "statvfs") and folder.is_dir()):
        return math.inf
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize
