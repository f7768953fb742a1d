"""What this process makes of a processor: how its threads wait, and its freed memory."""

import ctypes
import os
import platform

_LOOK_SECONDS = 0.1
_BUSY = 0.25  # one other job on two or four cores is enough to make every thread wait for its own core

# Numbers of mallopt's options in <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def wait_without_spinning() -> None:
    """Let idle threads sleep if the processor is busy already; it has an effect before torch is imported.

    Threads that spin while they wait are twice as fast on a quiet CPU and many times slower on a busy one
    (recipes/LOG.md). OpenMP reads the variable once, when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ and _busy_share() > _BUSY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


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


def _busy_share() -> float:
    """The part of our cores that works just now; a load average would still count the run before this."""
    import psutil  # noqa: PLC0415  in the extra `finetune`; counting cores does without it

    shares: list[float] = psutil.cpu_percent(interval=_LOOK_SECONDS, percpu=True)  # pyright: ignore[reportAssignmentType]
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    seen = [shares[core] for core in ours if core < len(shares)]
    return sum(seen) / max(1, len(seen)) / 100
