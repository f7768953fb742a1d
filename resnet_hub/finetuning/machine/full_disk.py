"""One message for a disk that is full or failing."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from resnet_hub.errors import RunError

_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


@contextmanager
def naming_full_disks() -> Iterator[None]:
    """Raise RunError, with what to do, in place of the OSError of a disk that is full or failing."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _is_of_the_disk(error):
            raise
        raise RunError(
            f"The disk does not take what is written: {error}. The checkpoints that are there are whole; "
            f"make room, and the same command resumes from the newest."
        ) from error


def _is_of_the_disk(error: OSError | SafetensorError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _OF_THE_DISK
    return any(f"os error {number})" in str(error) for number in _OF_THE_DISK)  # it has no number of its own
