"""The cores that this process may use, and how its threads wait for one another."""

import os

import psutil

_LOOK_SECONDS = 0.1
_BUSY = 0.25  # one other job on two or four cores is enough to make every thread wait for its own core


def available_cores() -> int:
    """Cores that the system lets this process run on; those of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # Linux; macOS does not say
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_without_spinning() -> None:
    """Let idle threads sleep if the processor is busy already; it has an effect before torch is imported.

    Threads that spin while they wait are twice as fast on a quiet CPU and many times slower on a busy one
    (recipes/LOG.md). OpenMP reads the variable once, when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ and _busy_share() > _BUSY:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def _busy_share() -> float:
    """The part of our cores that works just now; a load average would still count the run before this."""
    shares: list[float] = psutil.cpu_percent(interval=_LOOK_SECONDS, percpu=True)  # pyright: ignore[reportAssignmentType]
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(shares))
    seen = [shares[core] for core in ours if core < len(shares)]
    return sum(seen) / max(1, len(seen)) / 100
