"""What has reached the disk: shared by the folders of models and the checkpoints of runs."""

import os
from pathlib import Path

_IS_WINDOWS = os.name == "nt"


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    if _IS_WINDOWS and path.is_dir():  # it opens no folders, and keeps a journal of the names in them
        return
    # Windows flushes what was opened for writing alone; elsewhere a file that is read-only has to do as well.
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
