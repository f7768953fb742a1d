"""Memory that one training step frees is there for the next one."""

import ctypes
import platform

# Numbers of mallopt's options in <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make the C library keep what is freed in this process; whether it does, which is so with glibc.

    glibc gives a large block back to the system as soon as it is freed, and a training step on a CPU
    frees hundreds of them: asking for them again, and the kernel's clearing of each page, took a seventh of
    the time of a step of ResNet-18 at 224 px (recipes/LOG.md). The most that a process holds grows by a
    seventh at most. What is computed does not change. See mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    never = 2**31 - 1
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, never))
